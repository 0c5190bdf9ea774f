"""`lab log`: what a machine said, from all that heard it."""

from __future__ import annotations

from pathlib import Path

import click

from harness.evidence.rundir import RunDir
from harness.lab import bootlog
from harness.lab.visible import visible

__all__ = ["COMMANDS"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path, file_okay=False))
@click.option("--boot", default="", metavar="ID", help="Only this boot (the start of its id).")
@click.option("--unheard", is_flag=True, help="Only what kmsg has not got: gaps, and last words.")
def log(path: Path, boot: str, unheard: bool) -> None:
    """The kernel log of a RUN's boots, merged from kmsg (k), console (c), netconsole (n), pstore
    (p), kdump (d): each line once, behind the letters of those that have it; gaps are named."""
    run = RunDir.open(path)
    for name in bootlog.boots(run, boot):
        click.echo(f"== boot {name}")
        for line in bootlog.text(bootlog.of_boot(run, name)):
            if not unheard or not line.startswith("k"):
                click.echo(visible(line))


COMMANDS = (log,)
"""What `lab` gains."""
