"""`lab known`, `repro`: what is to be expected, and how often a failure comes back."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import click

from harness import inventory, known
from harness.errors import UsageError
from harness.lab import knowing, repro
from harness.lab.casefile import open_case
from harness.lab.commands_nightly import (
    history_option,
    known_option,
    listed_of,
    open_history,
    runs_option,
)

__all__ = ["COMMANDS"]


@click.group("known")
def known_command() -> None:
    """The known issues: add one, or see which say nothing any more."""


@known_command.command("add")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN/TEST")
@click.option("--bug", required=True, metavar="URL", help="Or a file beside known-issues.toml.")
@click.option("--title", default="", help="What is wrong, in a line (default: the finding's).")
@click.option("--name", default="", help="The entry's name (default: from driver and test).")
@click.option(
    "--flake",
    "rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="It comes and goes: in this share of all runs, as 0.05.",
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=knowing.HOLDS,
    show_default=True,
    help="How long it holds.",
)
@known_option
@click.pass_context
def known_add(
    ctx: click.Context,
    path: Path,
    bug: str,
    title: str,
    name: str,
    rate: float | None,
    days: int,
    issues: Path | None,
) -> None:
    """Write an entry for what a test failed with; the file's comments stay."""
    listed = listed_of(ctx)
    file = issues or listed.path.resolve().parent / known.NAME
    today = date.today()
    there = known.load(file, listed.targets, today).issues if file.exists() else {}
    if name and (name in there or not re.fullmatch(r"[A-Za-z0-9_-]+", name)):
        raise UsageError(
            "this name is taken, or none",
            where=f"--name {name}",
            cure="letters, digits, _ and - only, and not one that stands in the file",
        )
    case = open_case(path)
    lines = knowing.entry(case, bug=bug, today=today, title=title, rate=rate, days=days)
    name = name or knowing.name_for(case, there)
    knowing.add(file, name, lines, listed.targets, today)
    click.echo(f"{file}: [issues.{name}]\n{lines}", nl=False)


@known_command.command("check")
@runs_option
@history_option
@known_option
@click.pass_context
def known_check(
    ctx: click.Context, runs: Path | None, url: str | None, issues: Path | None
) -> None:
    """Entries that have expired, overlap, or did not show in the last thirty nights.

    The exit status is 1 if there are.
    """
    listed = listed_of(ctx)
    with open_history(listed, url, runs) as history:
        last = [night.name for night in history.nights(last=30)]
        results = history.results(nights=last) if last else []
    lines = knowing.check(known.of_list(listed, issues), results)
    for line in lines:
        click.echo(line)
    ctx.exit(1 if lines else 0)


@click.command("repro")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN/TEST")
@click.option("--count", "times", default=20, type=click.IntRange(min=1), show_default=True)
@click.option("--until-fail", is_flag=True, help="Stop at the first failure.")
@runs_option
@click.pass_context
def repro_command(
    ctx: click.Context, path: Path, times: int, until_fail: bool, runs: Path | None
) -> None:
    """Run a test again and again on its target: how often does the failure come back?"""
    case = open_case(path)
    listed = inventory.load(ctx.obj or inventory.default_path())
    listed.get(case.target)
    more = ["--until-fail"] if until_fail else []
    found = repro.run(case, runs or listed.runs, listed.path, times, more)
    for line in found.lines():
        click.echo(line)
    ctx.exit(1 if found.any_failure.failed else 0)


COMMANDS = (known_command, repro_command)
"""What `lab` gains."""
