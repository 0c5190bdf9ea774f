"""`lab nightly`, `history`, `diff`: the night, what all nights said, what is new this morning."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness import inventory, known
from harness.errors import LabError, UsageError
from harness.inventory import Inventory
from harness.lab import asked, nightly, nights, site, summary
from harness.lab.board import board_for
from harness.lab.claims import claims_for
from harness.lab.diff import compare
from harness.lab.history import Added, History, default_url
from harness.lab.nightly import Settings
from harness.lab.nights import NightDir, Plan

__all__ = ["COMMANDS"]

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class _Span(click.ParamType[float]):
    """A time as 90, 45m, 2h, 30d; in seconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no time: write 90, 45m, 2h or 30d", param, ctx)
        return float(found[1]) * UNITS[found[2]]


SPAN = _Span()
history_option = click.option("--history", "url", metavar="URL", help="Default: beside the runs.")
runs_option = click.option(
    "--runs", type=click.Path(path_type=Path, file_okay=False), help="Default: the target list's."
)
known_option = click.option(
    "--known",
    "issues",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The known issues (default: known-issues.toml beside the target list, if there).",
)


def listed_of(ctx: click.Context) -> Inventory:
    """The target list that `lab --inventory` names, or the default one."""
    return inventory.load(ctx.obj or inventory.default_path())


def open_history(listed: Inventory, url: str | None, runs: Path | None) -> History:
    """The history that an option, or else the target list, names."""
    return History.open(url or listed.history or default_url(runs or listed.runs))


def rates_of(listed: Inventory, issues: Path | None) -> Mapping[str, float]:
    """How often each known flake is said to fail."""
    return known.of_list(listed, issues).rates()


@click.command("nightly")
@click.option("--targets", "tags", multiple=True, metavar="TAG", help="By tag or name; else all.")
@click.option(
    "--kernel", metavar="RELEASE", default="", help="Only targets that run it, as '6.13*'."
)
@click.option("--jobs", default=4, type=click.IntRange(min=1), help="Targets at once (default: 4).")
@click.option("--budget", type=SPAN, help="For each target, as 45m or 2h; then it is stopped.")
@click.option("--resume", is_flag=True, help="Go on with the newest night, which was cut short.")
@click.option(
    "--share",
    default="",
    metavar="NAME",
    help="Share the targets' places with all dispatchers that were given this name.",
)
@click.option("--wait", type=SPAN, help="For targets that others hold (default: 8h).")
@click.option("--notify", metavar="COMMAND", help="Gets the summary on its stdin.")
@runs_option
@history_option
@known_option
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def nightly_command(
    ctx: click.Context,
    tags: tuple[str, ...],
    kernel: str,
    jobs: int,
    budget: float | None,
    resume: bool,
    share: str,
    wait: float | None,
    notify: str | None,
    runs: Path | None,
    url: str | None,
    issues: Path | None,
    pytest_args: tuple[str, ...],
) -> None:
    """Test all targets, each in a pytest of its own, and say what is new.

    What follows -- goes to pytest.  The exit status is 1 when something regressed, 3 when
    something did not run or the lab had trouble, else 0.
    """
    listed = listed_of(ctx)
    runs = runs or listed.runs
    known.of_list(listed, issues)  # what is wrong in it is said now, not in each session
    if resume:
        if tags or kernel or pytest_args:
            raise UsageError(
                "a night goes on with the targets and tests that it began with",
                where="--resume",
                cure="leave --targets, --kernel and pytest's arguments out",
            )
        night = NightDir.resume(nights.newest(runs))
    else:
        chosen = nights.chosen(tags, ((t.name, t.tags) for t in listed.targets.values()))
        wanted = (f"--kernel={kernel}",) if kernel else ()
        # Here: one that goes on with it may be asked for in another directory.
        words = (*wanted, *asked.settled(pytest_args))
        night = NightDir.create(runs, Plan(tuple(chosen), words))
    settings = Settings(runs, listed.path, issues, jobs, budget)
    settings = replace(settings, wait_s=wait or settings.wait_s)
    ours = claims_for([listed.get(name) for name in night.left()], share, f"night {night.name}")
    with board_for(Console()) as board:
        board.say(f"night {night.name}: {len(night.left())} targets, {jobs} at once")
        how = nightly.run(night, settings, board, ours)
    night.close(how)
    with open_history(listed, url, runs) as history:
        history.add([runs])
        diff = compare(history, after=night.name, rates=rates_of(listed, issues))
        page = site.write(history, site.default_out(runs))
    told, code = f"{summary.text(diff)}\n{page}\n", summary.status(diff)
    click.echo(told, nl=False)
    argv = shlex.split(notify) if notify else list(listed.notify)
    if argv:
        try:
            summary.notify(argv, told, diff, code)
        except LabError as error:
            click.secho(f"lab: {error}", err=True, fg="red")
            code = code or summary.LAB
    ctx.exit(code)


@click.command("diff")
@click.argument("before", required=False, default="")
@click.argument("after", required=False, default="")
@runs_option
@history_option
@known_option
@click.pass_context
def diff_command(
    ctx: click.Context,
    before: str,
    after: str,
    runs: Path | None,
    url: str | None,
    issues: Path | None,
) -> None:
    """What changed from night (or run) BEFORE to AFTER; else since each test's last result.

    AFTER is the newest nightly by default.  The exit status is as lab nightly's.
    """
    listed = listed_of(ctx)
    with open_history(listed, url, runs) as history:
        diff = compare(history, before, after, rates_of(listed, issues))
    click.echo(summary.text(diff), nl=False)
    ctx.exit(summary.status(diff))


@click.group("history", invoke_without_command=True)
@runs_option
@history_option
@click.pass_context
def history_command(ctx: click.Context, runs: Path | None, url: str | None) -> None:
    """What all nights said: an overview of the newest; see also lab diff."""
    listed = listed_of(ctx)
    opened = ctx.with_resource(open_history(listed, url, runs))
    ctx.meta["history"], ctx.meta["runs"] = opened, runs or listed.runs
    if ctx.invoked_subcommand is None:
        _overview(opened)


@history_command.command("add")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def history_add(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Read run directories, or what holds some (default: the runs directory)."""
    history: History = ctx.meta["history"]
    _added(history.add(paths or [ctx.meta["runs"]]))


@history_command.command("rebuild")
@click.pass_context
def history_rebuild(ctx: click.Context) -> None:
    """Forget everything and read it again from the run directories."""
    history: History = ctx.meta["history"]
    runs: Path = ctx.meta["runs"]
    _added(history.rebuild([runs] if runs.is_dir() else []))


def _added(added: Added) -> None:
    click.echo(f"{added.read} runs read, {added.results} results; {added.known} were known")


def _overview(history: History) -> None:
    found = history.nights(nightly=False)
    if not found:
        click.echo("no run is known: lab history add, or lab nightly")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("night", "began", "targets", "judged", "fail", "known", "error", "troubles"):
        table.add_column(column)
    for night in found[:15]:
        results = history.results(nights=[night.name])
        counts = (
            sum(r.judged for r in results),
            sum(r.bad for r in results),
            sum(bool(r.known) for r in results),
            sum(r.outcome == "error" for r in results),
        )
        began = datetime.fromtimestamp(night.started, UTC).strftime("%Y-%m-%d %H:%M")
        name = night.name if night.nightly else f"({night.name})"
        troubles = ", ".join(sorted(night.troubles))
        table.add_row(name, began, str(len(night.targets)), *map(str, counts), troubles)
    Console().print(table)
    seen = history.sightings()
    click.echo(f"{len(found)} nights and runs by hand, {len(seen)} different failures")


COMMANDS = (nightly_command, diff_command, history_command)
"""What `lab` gains."""
