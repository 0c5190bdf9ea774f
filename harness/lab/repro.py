"""How often a recorded failure comes back: its test run again, and a rate with its interval.

Runs pytest as a person would; counts the verdicts of the run directory that it left.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError
from harness.evidence.rundir import RunDir, attempt_of
from harness.lab import ingest
from harness.lab.casefile import Case, boot_words
from harness.lab.nights import run_of
from harness.lab.rates import Rate

__all__ = ["Repro", "count", "run"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Repro:
    """`same` failed with a finding of the recorded one's, `any_failure` failed at all; both of
    those that proved something.  `others` are the outcomes that proved nothing."""

    run: Path
    same: Rate
    any_failure: Rate
    others: dict[str, int]

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"the recorded failure: {self.same}"]
        if self.any_failure != self.same:
            told.append(f"any failure: {self.any_failure}")
        if self.others:
            counts = ", ".join(f"{n} {outcome}" for outcome, n in self.others.items())
            told.append(f"besides, what proves nothing: {counts}")
        return [*told, f"evidence: {self.run}"]


def run(case: Case, runs: Path, inventory: Path, times: int, more: Sequence[str]) -> Repro:
    """Run the test of `case` on its target `times` times.  Raises LabError where none ran."""
    target, test = case.target, attempt_of(case.test)[0]
    seen = [path.name for path in ingest.runs_in(runs)] if runs.is_dir() else []
    argv = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test),
        *(f"--target={target}", f"--inventory={inventory.absolute()}"),
        *(f"--runs={runs.absolute()}", f"--count={times}", *boot_words(case.facts), *more),
    ]
    status = subprocess.run(argv, cwd=ROOT).returncode
    made = run_of(runs, "", target, seen) if runs.is_dir() else None
    if made is None or not RunDir.open(made).tests():
        raise LabError(
            f"no test ran: pytest ended with {status}",
            where=target,
            cure="see what it said above",
        )
    return count(made, case)


def count(path: Path, case: Case) -> Repro:
    """What the run at `path` says of how often `case` comes back."""
    recorded = {finding.signature for finding in case.failing}
    own = not any(finding.severity == "fail" for finding in case.verdict.findings)
    same = bad = judged = 0
    others: Counter[str] = Counter()
    for test in ingest.read(path).tests:
        verdict = test.verdict
        failed = verdict.outcome in ("fail", "incomplete") or bool(verdict.known)
        if verdict.outcome not in ("pass", "fail", "xfail", "incomplete"):
            others[verdict.outcome] += 1
            continue
        judged += 1
        bad += failed
        found = {f.signature for f in verdict.findings if f.severity == "fail"}
        same += failed and (not found if own else bool(found & recorded))
    return Repro(path, Rate(same, judged), Rate(bad, judged), dict(others))
