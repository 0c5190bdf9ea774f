"""The night's result in plain text, and as an exit status: what a mail and a person read first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

from harness.errors import LabError
from harness.lab.diff import KINDS, Change, Diff

__all__ = ["CLEAN", "LAB", "REGRESSIONS", "STATUS", "headline", "notify", "status", "text"]

CLEAN, REGRESSIONS, LAB = 0, 1, 3
STATUS = {CLEAN: "clean", REGRESSIONS: "regressions", LAB: "lab errors"}
# What is told one by one of each kind; the rest is counted.
MOST = 40
# How long a notify command may take, in seconds.
PATIENCE_S = 60.0


def status(diff: Diff) -> int:
    """1: something must be looked at; else 3: something did not run; else 0."""
    if diff.regressions:
        return REGRESSIONS
    unfinished = diff.after.nightly and diff.after.how != "done"
    return LAB if diff.lab_troubles or unfinished else CLEAN


def headline(diff: Diff) -> str:
    """One line: how many of each kind."""
    counts = [f"{len(diff.of(kind))} {heading}" for kind, heading in KINDS.items() if diff.of(kind)]
    return f"{diff.after.name}: {', '.join(counts) or 'nothing changed'}; {diff.ran} tests judged"


def text(diff: Diff) -> str:
    """All of it, a paragraph for each kind, the most urgent first."""
    against = diff.before.name if diff.before else "each test's own last result"
    lines = [headline(diff), f"compared with {against}"]
    if diff.after.nightly and diff.after.how != "done":
        lines.append(f"the night is not over: {diff.after.how or 'it goes on, or was killed'}")
    for kind, heading in KINDS.items():
        found = diff.of(kind)
        if not found:
            continue
        lines += ["", f"{heading} ({len(found)})"]
        for change in found[:MOST]:
            lines += _told(change)
        if len(found) > MOST:
            lines.append(f"  and {len(found) - MOST} more")
    return "\n".join(lines) + "\n"


def notify(argv: Sequence[str], told: str, diff: Diff, code: int) -> None:
    """Hand the summary to a command on its stdin; LAB_NIGHT and LAB_STATUS are in its
    environment.  Raises LabError where it fails."""
    facts = {"LAB_NIGHT": diff.after.name, "LAB_STATUS": STATUS[code]}
    try:
        done = subprocess.run(
            list(argv),
            input=told.encode("utf-8", "replace"),
            env={**os.environ, **facts},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(
            f"the notify command failed: {error}", where=argv[0], cure="run it by hand"
        ) from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-500:]
        raise LabError(
            f"the notify command ended with {done.returncode}: {said}",
            where=argv[0],
            cure="run it by hand, with the summary of `lab diff` on its stdin",
        )


def _told(change: Change) -> list[str]:
    test = change.test.removeprefix("testcases/") or "the whole target"
    lines = [f"  {change.target}  {test}", f"      {change.why}"]
    extra = []
    if change.now and change.now.signatures and change.kind not in ("fixed", "slower"):
        extra.append(f"[{', '.join(change.now.signatures)}]")
    since = change.since
    if since and change.now and since.run != change.now.run:
        extra.append(f"since {_day(since.started)} on {since.kernel or 'an unknown kernel'}")
    elif change.kind == "new" and change.now and change.before:
        before, now = change.before, change.now
        if before.kernel != now.kernel:
            extra.append(f"passed on {before.kernel}, this is {now.kernel}")
    if change.kind == "missing" and change.before:
        extra.append(f"last judged {_day(change.before.started)}: {change.before.outcome}")
    if change.elsewhere:
        extra.append(f"also on {', '.join(change.elsewhere)}")
    if extra:
        lines.append(f"      {'; '.join(extra)}")
    if change.now and change.kind in ("new", "changed", "flaky"):
        lines.append(f"      {change.now.path}")
    return lines


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
