"""Fences: what is known of each one that a trace saw, a column each, a row on demand.

Who a fence is, is (context, seqno), both cut to 32 bits by the kernel's trace
(include/trace/events/dma_fence.h) and used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.fence.strings import Strings

__all__ = ["NEVER", "NO_ERROR_KNOWN", "ROLES", "STATES", "Fence", "Fences", "Role", "State"]

NEVER = -1
"""In a column of times or indices: there was none."""

NO_ERROR_KNOWN = 1
"""In the column `error`, whose values are 0 or negative: nobody asked the fence."""

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


class Role(StrEnum):
    """What a fence is to a job: of drm_sched's the two the scheduler makes, and the driver's; of
    a driver that schedules by itself its one and only, the request's."""

    OTHER = "other"
    REQUEST = "request"
    SCHEDULED = "scheduled"
    FINISHED = "finished"
    HW = "hw"


class State(StrEnum):
    """How a fence ended.  `FORCED`: by the thread that ran a recovery, in it; `IN_RECOVERY`: by
    another meanwhile; `UNKNOWN`: events were lost that might have told."""

    PENDING = "pending"
    IN_TIME = "in time"
    LATE = "late"
    IN_RECOVERY = "in recovery"
    FORCED = "forced"
    FREED = "freed unsignalled"
    UNKNOWN = "unknown"


ROLES = tuple(Role)
STATES = tuple(State)


class Fence(NamedTuple):
    """One row.  Times are CLOCK_MONOTONIC in ns, None where the event was not seen.

    `error` is 0 or a negative errno as its submitter was told, None if nobody asked;
    `signaler` and `maker` are pids; `job` the row of the finished fence whose job it belongs to,
    a request's its own.
    """

    context: int
    seqno: int
    driver: str
    timeline: str
    role: Role
    state: State
    born: int | None
    enabled: int | None
    signaled: int | None
    destroyed: int | None
    maker: int
    signaler: int
    job: int | None
    error: int | None
    renumbered: bool

    @property
    def name(self) -> str:
        """Driver, timeline, context and number, as the kernel's debugfs writes them."""
        return f"{self.driver} {self.timeline} {self.context}:{self.seqno}"

    @property
    def first(self) -> int:
        """The first that was seen of it."""
        return min(t for t in (self.born, self.enabled, self.signaled, self.destroyed) if t)


@dataclass(slots=True)
class Fences:
    """All fences, a column each, ordered by context, number and life."""

    strings: Strings
    context: NDArray[np.uint32]
    seqno: NDArray[np.uint32]
    driver: NDArray[np.int32]
    timeline: NDArray[np.int32]
    role: NDArray[np.uint8]
    state: NDArray[np.uint8]
    born: Int
    enabled: Int
    signaled: Int
    destroyed: Int
    maker: NDArray[np.int32]
    signaler: NDArray[np.int32]
    job: Int
    error: NDArray[np.int32]
    renumbered: Bool
    # Rank of each event among all of the trace; what came first where clocks are equal.
    born_order: Int
    enabled_order: Int
    signaled_order: Int
    signaled_cpu: Int

    def __len__(self) -> int:
        return len(self.context)

    def __iter__(self) -> Iterator[Fence]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Fence:
        error = int(self.error[i])
        return Fence(
            int(self.context[i]),
            int(self.seqno[i]),
            self.strings[int(self.driver[i])],
            self.strings[int(self.timeline[i])],
            ROLES[self.role[i]],
            STATES[self.state[i]],
            _seen(self.born[i]),
            _seen(self.enabled[i]),
            _seen(self.signaled[i]),
            _seen(self.destroyed[i]),
            int(self.maker[i]),
            int(self.signaler[i]),
            _seen(self.job[i]),
            None if error == NO_ERROR_KNOWN else error,
            bool(self.renumbered[i]),
        )

    def has(self, *roles: Role) -> Bool:
        """Which rows have one of `roles`."""
        return np.isin(self.role, [ROLES.index(role) for role in roles])

    def jobs(self) -> Bool:
        """Which rows stand for a job as its submitter knows it."""
        return self.has(Role.FINISHED, Role.REQUEST)

    def ended(self, *states: State) -> Bool:
        """Which rows have one of `states`."""
        return np.isin(self.state, [STATES.index(state) for state in states])

    def driven_by(self, *drivers: str) -> Bool:
        """Which rows' fences were made by one of `drivers`."""
        # One that no record names has the number -1, which no row has.
        return np.isin(self.driver, [self.strings.id(driver) for driver in drivers])

    def of_job(self, finished: int) -> list[int]:
        """The rows of the job whose finished fence, or request, is in row `finished`."""
        return [int(row) for row in np.flatnonzero(self.job == finished)]

    def due_from(self) -> Int:
        """Since when a fence is owed: its birth, or what was first seen of it; a job's since it
        was handed to the hardware and the one before it on its ring was done, for it may have
        had to wait its turn."""
        seen = np.stack([self.born, self.enabled, self.signaled, self.destroyed])
        since = np.where(seen == NEVER, np.iinfo(np.int64).max, seen).min(axis=0)
        handed = self.has(Role.SCHEDULED) & (self.job != NEVER) & (self.signaled != NEVER)
        since[self.job[handed]] = self.signaled[handed]
        hw = np.flatnonzero(self.has(Role.HW, Role.REQUEST))
        hw = hw[np.lexsort((self.born_order[hw], self.context[hw]))]
        before, after = hw[:-1], hw[1:]
        behind = (self.context[before] == self.context[after]) & (self.signaled[before] != NEVER)
        before, after = before[behind], after[behind]
        since[after] = np.maximum(since[after], self.signaled[before])
        finished = hw[self.job[hw] != NEVER]
        since[self.job[finished]] = np.maximum(since[self.job[finished]], since[finished])
        return np.asarray(since, np.int64)

    def on_ring(self) -> Bool:
        """Which rows are on a timeline where jobs' hw fences, or requests, are."""
        rings = self.context[self.has(Role.HW, Role.REQUEST)]
        return np.isin(self.context, np.unique(rings))

    def listened_order(self) -> Int:
        """From which event on somebody was to be told of the signal; NEVER where nobody was.

        Of a driver with an enable_signaling hook a fence that nobody listens to may be noticed
        late or never.  Without one nothing is traced, and the driver must always tell: then
        a job's fences, and all on the timeline of one, count from birth.
        """
        hooked = np.isin(self.driver, np.unique(self.driver[self.enabled != NEVER]))
        always = ~hooked & (self.on_ring() | ~self.has(Role.OTHER))
        since = np.maximum(self.born_order, 0)  # also of one that was born before the trace
        return np.where(always & (self.enabled == NEVER), since, self.enabled_order)

    def key(self) -> NDArray[np.uint64]:
        """context << 32 | seqno."""
        return self.context.astype(np.uint64) << np.uint64(32) | self.seqno


def _seen(value: np.int64) -> int | None:
    return None if value == NEVER else int(value)
