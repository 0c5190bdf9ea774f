"""The `lab` face: one command for a desk, a nightly and a bisect.

Each subcommand is thin: it parses, calls one room of the house, and turns a
HarnessError into a message and an exit status.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, BinaryIO

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import desk, doctor, inventory
from harness.errors import HarnessError, UsageError
from harness.inventory import Inventory
from harness.kernel.parts import one_log
from harness.lab import (
    catalogue,
    commands_bisect,
    commands_death,
    commands_known,
    commands_nightly,
    commands_report,
    commands_retention,
)
from harness.lab import dmesg as dmesg_text
from harness.lab import fences as fence_text
from harness.lab.reservation import Reservation
from harness.lab.symbolise import Symboliser

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
# Test files that run side by side, each perhaps with a virtual machine of 1 GiB.
MOST_BESIDE = 4
CHECK_MARKS = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]--[/]"}


class _Group(click.Group):
    """Turns every HarnessError into its message and exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.secho(f"lab: {error}", err=True, fg="red")
            ctx.exit(error.exit_status)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--inventory",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The target list (default: $LAB_TARGETS, else targets.toml).",
)
@click.pass_context
def main(ctx: click.Context, path: Path | None) -> None:
    """Hang GPUs on purpose and prove from the kernel's own evidence what recovery did."""
    ctx.obj = path


main.add_command(catalogue.command)


def _inventory(ctx: click.Context) -> Inventory:
    return inventory.load(ctx.obj or inventory.default_path())


def _pytest(ctx: click.Context, *args: str) -> None:
    """Hand over to pytest in a process of its own; its exit status is ours."""
    ctx.exit(subprocess.run([sys.executable, "-m", "pytest", *args], cwd=ROOT).returncode)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--target", "names", multiple=True, metavar="NAME", help="Default: every virtual one."
)
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, names: tuple[str, ...], pytest_args: tuple[str, ...]) -> None:
    """Run testcases/ on targets; further arguments go to pytest."""
    listed = _inventory(ctx)
    chosen = [listed.get(name).name for name in names] or [t.name for t in listed.virtual()]
    if not chosen:
        raise UsageError(
            "no virtual target is configured",
            where=str(listed.path),
            cure="name a target with --target NAME",
        )
    places = [] if any("testcases" in arg for arg in pytest_args) else ["testcases"]
    _pytest(
        ctx,
        *places,
        f"--inventory={listed.path.resolve()}",
        *(f"--target={name}" for name in chosen),
        *pytest_args,
    )


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--fast", "depth", flag_value="fast", help="Unit and loopback only.")
@click.option("--deep", "depth", flag_value="deep", help="Also what is too long for CI.")
@click.option(
    "--matrix",
    "depth",
    flag_value="matrix",
    help="Break the virtual GPU in every way it knows (or FAULT...); print what was caught.",
)
@click.option(
    "--faults",
    "depth",
    flag_value="faults",
    help="Let machine, agent, link, disk and harness die in every way (or FAULT...).",
)
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def test(ctx: click.Context, depth: str | None, pytest_args: tuple[str, ...]) -> None:
    """The harness's own tests."""
    if depth in ("matrix", "faults"):
        argv = [sys.executable, "-m", f"harness.tests.vm.{depth}", *pytest_args]
        ctx.exit(subprocess.run(argv, cwd=ROOT).returncode)
    # The longest first, and the short ones fill up what is left of the workers' time.
    places = ["harness/tests/loopback", "harness/tests/unit"]
    if depth != "fast":
        places.insert(0, "harness/tests/vm")
    deep = ["--deep"] if depth == "deep" else []
    # A file's tests share a machine, and most of their time they wait for it.
    workers = str(min(MOST_BESIDE, len(os.sched_getaffinity(0))))
    beside = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    _pytest(ctx, *places, *deep, *beside, *pytest_args)


@main.command()
@click.pass_context
def targets(ctx: click.Context) -> None:
    """What is configured."""
    listed = _inventory(ctx)
    table = Table(box=None, pad_edge=False)
    for column in ("target", "driver", "reached by", "console", "power", "may hang", "held by"):
        table.add_column(column)
    for target in listed.targets.values():
        way = f"QEMU, {target.vm.card}" if target.vm else f"{target.user}@{target.address}"
        public = target.public()
        holder = Reservation.holder(target.name)
        table.add_row(
            target.name,
            target.driver,
            way,
            "serial" if target.virtual else public["console"]["kind"],
            "QEMU" if target.virtual else public["power"]["kind"],
            "yes" if target.destructive else "no",
            f"{holder.user}, pid {holder.pid}" if holder else "",
        )
    Console().print(table)


@main.command("doctor")
@click.argument("name")
@click.pass_context
def doctor_command(ctx: click.Context, name: str) -> None:
    """What works on a target, line by line, each failure with its cure."""
    target = _inventory(ctx).get(name)
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for check in doctor.examine(target):
        found = f": {escape(check.found)}" if check.found else ""
        console.print(f"{CHECK_MARKS[check.ok]} {escape(check.what)}{found}")
        if check.ok is not True and check.cure:
            console.print(f"   cure: {check.cure}", markup=False)
        failed += check.ok is False
    console.print(f"{failed} of them must be mended" if failed else "fit", style="bold")
    ctx.exit(4 if failed else 0)


@main.command()
@click.argument("name")
@click.pass_context
def console(ctx: click.Context, name: str) -> None:
    """The target's console; Ctrl-] ends."""
    ctx.exit(desk.console(_inventory(ctx).get(name)))


@main.command()
@click.argument("name")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def shell(ctx: click.Context, name: str, argv: tuple[str, ...]) -> None:
    """A shell on the target, or one command there."""
    ctx.exit(desk.shell(_inventory(ctx).get(name), argv))


@main.command()
@click.argument("name")
@click.argument("action", type=click.Choice(["on", "off", "cycle", "query", "nmi"]))
@click.pass_context
def power(ctx: click.Context, name: str, action: str) -> None:
    """Switch the target's power, ask for it, or raise an NMI."""
    desk.power(_inventory(ctx).get(name), action)


@main.command()
@click.argument("name")
@click.pass_context
def unlock(ctx: click.Context, name: str) -> None:
    """Break the lock a run holds on a target."""
    target = _inventory(ctx).get(name)
    holder = Reservation.holder(target.name)
    if holder is None:
        click.echo(f"{name} is not held")
        return
    Reservation.break_lock(target.name)
    click.echo(f"{name} taken from {holder.user}, pid {holder.pid}: {holder.command}")


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="For kernel-log: a folder of logs with a manifest.jsonl to score the parser on.",
)
@click.pass_context
def bench(ctx: click.Context, name: str | None, as_json: bool, corpus: Path | None) -> None:
    """Benchmarks, each beside what a user would use instead."""
    argv = [sys.executable, "-m", "tools.bench", *([name] if name else [])]
    argv += ["--json"] if as_json else []
    argv += ["--corpus", str(corpus)] if corpus else []
    ctx.exit(subprocess.run(argv, cwd=ROOT).returncode)


@main.command()
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
            click.echo(dmesg_text.visible(f"{test.outcome:7} {test.name}{why}"))
    return bad


@main.command()
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


COMMANDS = (
    *commands_bisect.COMMANDS,
    commands_death.log,
    *commands_known.COMMANDS,
    *commands_nightly.COMMANDS,
    *commands_report.COMMANDS,
    *commands_retention.COMMANDS,
)
for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    main()
