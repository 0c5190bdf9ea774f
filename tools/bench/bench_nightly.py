"""A night of 10 and of 200 targets without the targets: what dispatching and remembering cost.

The sessions leave recorded evidence instead of testing (recorded_session.py): what is measured is
everything around them.  What real ones cost, over SSH, is in bench_sessions.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.lab import nightly
from harness.lab.diff import compare
from harness.lab.history import History, default_url
from harness.lab.nightly import Job, Settings
from harness.lab.nights import NightDir, Plan
from tools.bench import recorded_session
from tools.bench.result import Result

__all__ = ["run"]

FEW, MANY = 10, 200
TESTS = 20
# A real test takes seconds; the shorter, the more the dispatcher has to look at.
PAUSE_S = 0.05
BESIDE = 8
# For the history: targets, tests of each, nights.
TARGETS, EACH, NIGHTS = 50, 100, 4
RESULTS_WANTED = 2000.0
MIB_WANTED = 30.0
MIB = 1 << 20


class _Nobody:
    def show(self, jobs: Sequence[Job]) -> None:
        pass

    def say(self, line: str) -> None:
        pass


def run() -> list[Result]:
    """Dispatch, memory, ingest, diff."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        few, many = (_night(root / str(targets), targets) for targets in (FEW, MANY))
        flat = many[0] / few[0]
        return [
            Result.of(
                f"nightly: target-tests a CPU second of the dispatcher, {MANY} targets",
                1 / many[0],
                "1/s",
                {f"{FEW} targets": 1 / few[0]},
                0.5,
            ),
            Result.of("nightly: its CPU time a target-test", many[0] * 1e3, "ms", {}),
            Result.of(f"nightly: that of {MANY} targets by that of {FEW}", flat, "", {}),
            # More is better: how many targets' worth of memory fit into what was allowed for one.
            Result.of(
                "nightly: what a target may take by what it takes of the dispatcher",
                MIB_WANTED / max(many[1], 1e-3),
                "x",
                {"30 MiB": 1.0},
                1.0,
            ),
            *_history(root / "history"),
        ]


def _night(root: Path, targets: int) -> tuple[float, float]:
    """CPU seconds of the dispatcher a target-test, and MiB that it grew by, a target."""
    runs = root / "runs"
    runs.mkdir(parents=True)
    names = tuple(f"box-{number}" for number in range(targets))
    args = (f"--count={TESTS}", f"--storm={PAUSE_S}", "testcases")
    night = NightDir.create(runs, Plan(names, args))
    program = (sys.executable, "-I", "-S", recorded_session.__file__)
    settings = Settings(runs, root / "targets.toml", None, BESIDE, program=program)
    before, memory = time.process_time(), _resident()
    how = nightly.run(night, settings, _Nobody())
    spent, grown = time.process_time() - before, _resident() - memory
    night.close(how)
    ended = len(list(runs.glob("*-box-*/tests/*/verdict.json")))
    assert ended == targets * TESTS, f"{ended} tests of {targets * TESTS}"
    return spent / ended, max(grown, 0) / targets / MIB


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _history(root: Path) -> list[Result]:
    root.mkdir()
    for night in range(NIGHTS):
        for target in range(TARGETS):
            name = f"2026010{night + 1}T010000Z"
            recorded_session.record(root, name, f"box-{night}-{target}", EACH)
    total = NIGHTS * TARGETS * EACH
    begun, spent = time.perf_counter(), time.process_time()
    with History.open(default_url(root)) as history:
        added = history.add([root])
        taken, spent = time.perf_counter() - begun, time.process_time() - spent
        assert added.results == total, added
        begun = time.perf_counter()
        assert history.add([root]).known == NIGHTS * TARGETS
        again = time.perf_counter() - begun
        begun = time.perf_counter()
        ran = compare(history).ran
        compared = time.perf_counter() - begun
        assert ran == TARGETS * EACH
    plain = _plainly(root)
    return [
        Result.of(
            "history: test results read a second, SQLite",
            total / taken,
            "1/s",
            {"what was wanted": RESULTS_WANTED},
            1.0,
        ),
        Result.of("history: the same a CPU second", total / spent, "1/s", {}),
        Result.of(
            "history: the same beside a loop of json and sqlite3",
            total / taken,
            "1/s",
            {"json, sqlite3": total / plain},
        ),
        Result.of("history: known results passed over a second", total / again, "1/s", {}),
        Result.of(
            f"diff: results compared a second, of {NIGHTS} nights", total / compared, "1/s", {}
        ),
    ]


def _plainly(root: Path) -> float:
    """Seconds for what somebody would write in ten lines, who needs no second look at anything."""
    begun = time.perf_counter()
    with sqlite3.connect(root / "plain.sqlite") as database:
        database.execute("create table results (run, test, outcome, reason, seconds, findings)")
        for path in root.glob("*-box-*"):
            rows = []
            for file in path.glob("tests/*/verdict.json"):
                said = json.loads(file.read_text())
                found = json.dumps(said["findings"])
                rows.append((path.name, said["test"], said["outcome"], said["reason"],
                             said["seconds"], found))  # fmt: skip
            database.executemany("insert into results values (?, ?, ?, ?, ?, ?)", rows)
    return time.perf_counter() - begun
