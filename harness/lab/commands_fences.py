"""`lab fences`: what became of a run's fences."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click
from rich.console import Console

from harness.lab import fences as fence_text

__all__ = ["COMMANDS"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(["svg", "perfetto", "csv", "json"]),
    help="One test's account as a file: a picture, for ui.perfetto.dev, or data.",
)
@click.option("-o", "out", type=click.File("wb"), default="-", help="That file (default: stdout).")
@click.pass_context
def fences(ctx: click.Context, path: Path, form: str | None, out: IO[bytes]) -> None:
    """The account of every fence: of a RUN, test by test, or of RUN/TEST in full."""
    found = list(fence_text.accounts(path))
    if form is not None:
        fence_text.export(found, form, out)
        return
    console = Console(highlight=False, soft_wrap=True)
    if len(found) == 1:
        fence_text.show(*found[0][1:], console)
    else:
        fence_text.show_run(found, console)
    failing = any(f.severity != "note" for _, _, account in found for f in account.findings)
    ctx.exit(1 if failing else 0)


COMMANDS = (fences,)
"""What `lab` gains."""
