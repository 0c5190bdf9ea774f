"""What the history answers with: frozen facts about nights, runs, results and findings.

Times are seconds since the epoch, by the clock of the host that ran the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BAD", "JUDGED", "Failing", "Night", "Result", "Run", "Sighting"]

# What a test can prove.  `error` and `blind` prove nothing, `skip` was never run.
JUDGED = ("pass", "fail", "xfail", "incomplete")
BAD = ("fail", "incomplete")


@dataclass(frozen=True, slots=True)
class Night:
    """What ran together: a nightly, or a run by hand, which is its own night.

    `ended` and `how` are None and "" for one that was killed or goes on; `troubles` says of each
    target that did not do what was asked why not.
    """

    name: str
    nightly: bool
    started: float
    ended: float | None
    how: str
    targets: tuple[str, ...]
    troubles: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory.  `build` identifies the kernel that was booted, more closely than its
    release; `unfit` is why the target could not be reached, or not be brought back, or ""."""

    name: str
    path: Path
    night: str
    nightly: bool
    target: str
    driver: str
    kernel: str
    build: str
    started: float
    ended: float | None
    how: str
    unfit: str
    boots: int


@dataclass(frozen=True, slots=True)
class Failing:
    """A finding that is no note; `severity` is fail or unknown."""

    signature: str
    kind: str
    severity: str
    title: str


@dataclass(frozen=True, slots=True)
class Result:
    """How one test ended in one run.  `attempt` counts repetitions in the run, from 1.

    `times`: how long recovery took, in seconds, by the words of harness.account.durations.
    """

    run: str
    path: Path
    night: str
    target: str
    driver: str
    kernel: str
    build: str
    test: str
    attempt: int
    started: float
    outcome: str
    reason: str
    seconds: float
    lockdep: str
    fences: str
    known: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    failings: tuple[Failing, ...] = ()
    times: dict[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether it proves anything."""
        return self.outcome in JUDGED

    @property
    def bad(self) -> bool:
        """Whether the kernel failed, and nobody knew."""
        return self.outcome in BAD

    @property
    def signatures(self) -> tuple[str, ...]:
        """Of what failed, sorted."""
        return tuple(sorted({f.signature for f in self.failings if f.severity == "fail"}))


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where and when one failing finding was seen: `count` results, the first and last of them,
    and on which targets, with which kernels, in which tests."""

    signature: str
    kind: str
    title: str
    count: int
    first: float
    last: float
    first_night: str
    last_night: str
    first_kernel: str
    targets: tuple[str, ...]
    kernels: tuple[str, ...]
    tests: tuple[str, ...]
