"""Whole nights of real sessions over SSH: what one more target costs, of 10 and of 200.

One sshd on loopback poses as all of them.  Each target gets its own pytest, link, agent and run
directory, with tests that only look at it: no GPU's time hides what the harness needs.
"""

from __future__ import annotations

import re
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from harness.lab import nightly
from harness.lab.nightly import Job, Settings
from harness.lab.nights import NightDir, Plan
from harness.tests.loopback.posing import posing
from harness.tests.loopback.sshd import Sshd
from tools.bench import session_cases
from tools.bench.result import Result
from tools.bench.session_cases import TESTS

__all__ = ["run"]

FEW, MANY = 10, 200
BESIDE = 4
MIB_WANTED = 30.0
# Per target, CPU time and memory: more than this of MANY by FEW is not flat.
FLAT = 1.25


class _Watch:
    """The board of a night: how much memory of its own each session had at most, in MiB.

    That is what one more of them takes: pages that no other process has (proc(5)).  The night
    shows itself to its board five times a second.
    """

    def __init__(self) -> None:
        self.most: dict[str, float] = {}
        self.lines: list[str] = []

    def show(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.state == "running" and job.process is not None:
                now = _own(job.process.pid)
                self.most[job.target] = max(now, self.most.get(job.target, 0.0))

    def say(self, line: str) -> None:
        self.lines.append(line)


def _own(pid: int) -> float:
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has just ended
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", told, re.MULTILINE))) / 1024


def run(many: int = MANY) -> list[Result]:
    """Raises UsageError where no box can be posed as."""
    with tempfile.TemporaryDirectory(prefix="tdrlab-bench-") as scratch:
        root = Path(scratch)
        try:
            box = posing(root / "box")
        except pytest.skip.Exception as error:
            raise UsageError(str(error), where="bench sessions", cure="see the reason") from error
        try:
            few, lots = (_night(root / str(count), box, count) for count in (FEW, many))
        finally:
            box.stop()
    each = f"a target with {TESTS} tests"
    return [
        Result.of(
            "sessions: their CPU time", lots.cpu_s, f"s/{each}", {f"{FEW} targets": few.cpu_s}
        ),
        Result.of(
            f"sessions: CPU time of {FEW} targets by that of {many}, each",
            few.cpu_s / lots.cpu_s,
            "",
            {"flat": 1.0},
            1 / FLAT,
        ),
        Result.of(
            f"sessions: memory of {FEW} targets by that of {many}, each",
            few.mib / lots.mib,
            "",
            {"flat": 1.0},
            1 / FLAT,
        ),
        Result.of("sessions: what one more takes of memory", lots.mib, "MiB", {}),
        # More is better: how many fit into what was allowed for one.
        Result.of("sessions: that fit into 30 MiB", MIB_WANTED / lots.mib, "", {"one": 1.0}, 1.0),
        Result.of("sessions: time of a night", lots.seconds, f"s/{each}", {}),
    ]


@dataclass(frozen=True)
class _Cost:
    """Of a target: CPU time of its session, the most memory that it had, its share of the time."""

    cpu_s: float
    mib: float
    seconds: float


def _night(root: Path, box: Sshd, targets: int) -> _Cost:
    runs = root / "runs"
    runs.mkdir(parents=True)
    names = tuple(f"box-{number}" for number in range(targets))
    (root / "targets.toml").write_text("\n".join(_entry(name, box) for name in names))
    night = NightDir.create(runs, Plan(names, (session_cases.__file__,)))
    watch, before, began = _Watch(), _children(), time.monotonic()
    nightly.run(night, Settings(runs, root / "targets.toml", None, BESIDE), watch)
    spent, took = _children() - before, time.monotonic() - began
    night.close("done")
    ended = len(list(runs.glob("*-box-*/tests/*/verdict.json")))
    if ended != targets * TESTS:
        said = "\n".join(line for line in watch.lines if "ended" in line and "; " in line)
        raise LabError(f"{ended} tests of {targets * TESTS}: {said}", where="bench sessions")
    most = statistics.median(watch.most.values())
    return _Cost(spent / targets, most, took / targets)


def _entry(name: str, box: Sshd) -> str:
    return (
        f'[targets.{name}]\ndriver = "amdgpu"\naddress = "127.0.0.1"\nport = {box.port}\n'
        f'user = "root"\nkey = "{box.user_key}"\nhost_key = "{box.public()}"\n'
        "limits = { connect_s = 600, boot_s = 600, command_s = 600 }\n"
    )


def _children() -> float:
    """CPU seconds of all that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
