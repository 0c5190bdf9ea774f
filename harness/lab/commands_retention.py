"""`lab prune`, `replay`: what becomes of old runs, and what today's code says of them."""

from __future__ import annotations

import re
from pathlib import Path

import click

from harness import known, verdict
from harness.errors import LabError, UsageError
from harness.evidence.rundir import RunDir
from harness.known import KnownIssues
from harness.lab import ingest, prune, report
from harness.lab.commands_nightly import (
    SPAN,
    history_option,
    known_option,
    listed_of,
    open_history,
    runs_option,
)

__all__ = ["COMMANDS"]

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NOT_GOOD = ("fail", "incomplete", "error", "blind")


class _Size(click.ParamType[int]):
    """Bytes, as 500M or 20G."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", str(value))
        if found is None:
            self.fail(f"{value!r} is no size: write 500M or 20G", param, ctx)
        return int(float(found[1]) * UNITS[found[2]])


@click.command("prune")
@click.option("--compress", default="2d", type=SPAN, metavar="AGE", help="Default: 2d.")
@click.option("--keep", default="60d", type=SPAN, metavar="AGE", help="Evidence (default: 60d).")
@click.option("--size", type=_Size(), help="At most, of all runs, as 20G; the oldest go first.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@runs_option
@history_option
@click.pass_context
def prune_command(
    ctx: click.Context,
    compress: float,
    keep: float,
    size: int | None,
    dry_run: bool,
    runs: Path | None,
    url: str | None,
) -> None:
    """Compress old streams and take away old evidence.

    Verdicts and findings stay, and so does the evidence of what still fails: the first run that
    shows it and the last.
    """
    listed = listed_of(ctx)
    runs = runs or listed.runs
    with open_history(listed, url, runs) as history:
        history.add([runs])
        needed = prune.open_runs(history.results())
        deeds = prune.prune(runs, needed, compress_s=compress, keep_s=keep, size=size, dry=dry_run)
        if not dry_run:
            history.add([runs])
    for deed in deeds:
        click.echo(f"{deed.what:10} {deed.bytes / (1 << 20):9.1f} MiB  {deed.run.name}")
    freed = sum(deed.bytes for deed in deeds) / (1 << 20)
    would = "would be at most" if dry_run else "were"
    click.echo(f"{freed:.1f} MiB {would} freed; {len(needed)} runs are needed for what still fails")


@click.command("replay")
@click.argument("path", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--all", "every", is_flag=True, help="Every run there is; tells of changes only.")
@runs_option
@known_option
@click.pass_context
def replay_command(
    ctx: click.Context, path: Path | None, every: bool, runs: Path | None, issues: Path | None
) -> None:
    """Judge a recorded run again with today's parser and known issues, and show what changed."""
    if (path is None) != every:
        raise UsageError("give a RUN, or --all", where="lab replay", cure="lab replay runs/...")
    listed = listed_of(ctx)
    known_issues = known.of_list(listed, issues)
    chosen = [path] if path else ingest.runs_in(runs or listed.runs)
    worst = changes = left_out = 0
    for one in chosen:
        if prune.pruned(one):
            if path:
                raise LabError(
                    "its evidence was pruned: it cannot be judged again",
                    where=str(one),
                    cure="its verdicts are as they were; lab prune --keep keeps evidence longer",
                )
            left_out += 1
            continue
        bad, changed = _replay(RunDir.open(one), known_issues, every)
        worst |= bad
        changes += changed
    pruned = f"; {left_out} were pruned" if left_out else ""
    if every:
        click.echo(f"{len(chosen)} runs judged again, {changes} verdicts changed{pruned}")
    ctx.exit(worst)


def _replay(run: RunDir, issues: KnownIssues, every: bool) -> tuple[bool, int]:
    """Whether something in it is not good, and how many verdicts are others than before."""
    before = verdict.recorded(run)
    bad, changes = False, 0
    for judged in verdict.rejudge(run, issues):
        old = before.get(judged.test)
        bad |= judged.outcome in NOT_GOOD
        changed = old is None or (old.outcome, old.reason) != (judged.outcome, judged.reason)
        changes += changed
        if changed or not every:
            told = f"{judged.outcome:10} {judged.test}  {judged.reason}".rstrip()
            click.echo(f"{run.path.name}: {told}" if every else told)
        if changed:
            was = f"{old.outcome}: {old.reason}".removesuffix(": ") if old else "not judged"
            click.echo(f"{'':10} it was {was}")
    page = report.write(run)
    if not every:
        click.echo(f"{changes} changed")
        click.echo(f"report: {page}")
    return bad, changes


COMMANDS = (prune_command, replay_command)
"""What `lab` gains."""
