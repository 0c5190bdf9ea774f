"""`lab dmesg`: the reports in any kernel log."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console

from harness.errors import UsageError
from harness.kernel.parts import one_log
from harness.lab import dmesg as dmesg_text
from harness.lab.symbolise import Symboliser
from harness.lab.visible import visible

__all__ = ["COMMANDS"]


@click.command()
@click.argument("logs", nargs=-1, required=True, type=click.File("rb"), metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--stats", is_flag=True, help="Figures of the whole log, by kind.")
@click.option("--full", is_flag=True, help="With the text of every report.")
@click.option(
    "--symbols",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A vmlinux or module of that kernel, with debug info: gives frames their source lines.",
)
@click.option("--ktap", is_flag=True, help="KUnit's and kselftest's results instead of reports.")
@click.pass_context
def dmesg(
    ctx: click.Context,
    logs: tuple[BinaryIO, ...],
    as_json: bool,
    stats: bool,
    full: bool,
    symbols: tuple[Path, ...],
    ktap: bool,
) -> None:
    """Every report in a kernel log: dmesg, a console, syslog, kmsg, netconsole; - is stdin.
    Several files are one log; pstore's parts of a dump are put in order.

    The exit status is 1 if there is one, or with --ktap a test that failed or is missing.
    """
    symboliser = Symboliser(symbols)
    try:
        if ktap:
            ctx.exit(_subtests(one_log(logs), as_json))
        found = dmesg_text.read(one_log(logs))
    except OSError as error:
        raise UsageError(
            f"this log cannot be read: {error}",
            where=", ".join(str(log.name) for log in logs),
            cure="name a readable file, or -",
        ) from error
    if as_json:
        for value in [] if stats else dmesg_text.objects(found, symboliser):
            click.echo(dmesg_text.line(value))
    if as_json and stats:
        click.echo(dmesg_text.line(dmesg_text.statistics(found)))
    elif stats:
        dmesg_text.show_statistics(found, Console(highlight=False, soft_wrap=True))
    elif not as_json:
        dmesg_text.show(found, Console(highlight=False, soft_wrap=True), full, symboliser)
    if found.bytes and not (found.looks_like_log or found.reports or found.gpu_events):
        click.echo("no line of this looks like a kernel's: none has its time or level", err=True)
    ctx.exit(1 if found.reports else 0)


def _subtests(log: BinaryIO, as_json: bool) -> int:
    bad = 0
    for test in dmesg_text.subtests(log):
        bad |= test.outcome in ("fail", "missing")
        if as_json:
            click.echo(dmesg_text.line(dmesg_text.subtest(test)))
        else:
            why = f": {test.why}" if test.why else ""
            click.echo(visible(f"{test.outcome:7} {test.name}{why}"))
    return bad


COMMANDS = (dmesg,)
"""What `lab` gains."""
