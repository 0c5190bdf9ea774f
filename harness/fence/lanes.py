"""Lanes: the ledger arranged for a picture, one lane for each timeline's role and each waiter.

A lane's spans may overlap; `stacked` deals them out so that none do.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.fence.fences import NEVER, ROLES, Role
from harness.fence.ledger import Ledger
from harness.fence.waits import Wait

__all__ = ["FenceLane", "WaitLane", "fence_lanes", "stacked", "wait_lanes"]

Ints = NDArray[np.int64]

# What was submitted, then how it went to the hardware.
_ORDER = {Role.FINISHED: 0, Role.REQUEST: 0, Role.SCHEDULED: 1, Role.HW: 2, Role.OTHER: 3}
_JOB = {
    Role.FINISHED: "finished",
    Role.REQUEST: "requests",
    Role.SCHEDULED: "scheduled",
    Role.HW: "hardware",
    Role.OTHER: "",
}


@dataclass(frozen=True, slots=True, eq=False)
class FenceLane:
    """The fences of one timeline and role.  `rows` of the ledger; [begin, end] in ns, clipped to
    the ledger's time: while each was pending, as far as was seen."""

    driver: str
    timeline: str
    role: Role
    rows: NDArray[np.intp]
    begin: Ints
    end: Ints

    @property
    def name(self) -> str:
        """For a person."""
        word = _JOB[self.role]
        return f"{self.timeline}: {word}" if word else f"{self.timeline} ({self.driver})"


@dataclass(frozen=True, slots=True)
class WaitLane:
    """The waits of one thread, in order."""

    pid: int
    comm: str
    waits: tuple[Wait, ...]

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.comm or 'pid'} [{self.pid}]"


def fence_lanes(ledger: Ledger) -> list[FenceLane]:
    """All of them: rings with their roles together, then what is no job's."""
    f = ledger.fences
    seen = np.stack([f.born, f.enabled, f.signaled, f.destroyed])
    # Born before the ledger began where no birth was seen.
    begin = np.where(f.born == NEVER, ledger.first, f.born)
    ends = np.where(f.signaled == NEVER, f.destroyed, f.signaled)
    end = np.where(ends == NEVER, ledger.last, ends)
    begin = np.clip(begin, ledger.first, ledger.last)
    end = np.maximum(np.clip(end, ledger.first, ledger.last), begin)
    begin = np.where((seen == NEVER).all(axis=0), end, begin)
    keys = np.stack([f.timeline, f.role, f.driver]).astype(np.int64)
    unique, inverse = np.unique(keys, axis=1, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    edges = np.searchsorted(inverse.reshape(-1)[order], np.arange(unique.shape[1] + 1))
    lanes = []
    for nth in range(unique.shape[1]):
        timeline, role, driver = (int(value) for value in unique[:, nth])
        rows = order[edges[nth] : edges[nth + 1]]
        rows = rows[np.argsort(begin[rows], kind="stable")]
        names = f.strings[driver], f.strings[timeline]
        lanes.append(FenceLane(*names, ROLES[role], rows, begin[rows], end[rows]))
    # Timelines in the order of their first fences.
    since: dict[str, int] = {}
    for lane in lanes:
        first = int(lane.begin[0])
        since[lane.timeline] = min(since.get(lane.timeline, first), first)
    return sorted(
        lanes,
        key=lambda lane: (
            lane.role is Role.OTHER,
            since[lane.timeline],
            lane.timeline,
            _ORDER[lane.role],
            lane.driver,
        ),
    )


def wait_lanes(ledger: Ledger) -> list[WaitLane]:
    """All waiters, who slept longest first."""
    by_pid: dict[int, list[Wait]] = {}
    for wait in ledger.waits:
        by_pid.setdefault(wait.pid, []).append(wait)
    slept = {
        pid: sum((ledger.last if wait.end is None else wait.end) - wait.begin for wait in waits)
        for pid, waits in by_pid.items()
    }
    return [
        WaitLane(pid, ledger.comms.get(pid, "") or by_pid[pid][0].comm, tuple(by_pid[pid]))
        for pid in sorted(by_pid, key=lambda pid: (-slept[pid], pid))
    ]


def stacked(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """A level for each of the spans, which are ordered by their beginnings: on one level none
    begins before the one before it has ended.  As few levels as can be."""
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    levels = []
    for first, last in zip(begin, end, strict=True):
        while busy and busy[0][0] <= first:
            heapq.heappush(free, heapq.heappop(busy)[1])
        level = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (last, level))
        levels.append(level)
    return levels
