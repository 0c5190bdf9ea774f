"""The ledger: an account of every fence a test saw, from the recorded trace alone.

Joins lifetimes, recoveries, waits and what each job's submitter was told; says
of every fence how it ended, and *unknown* wherever lost events might have told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.evidence.jobs import JobLine
from harness.fence import lifetimes, recoveries, stalls, syscalls, waits
from harness.fence.fences import NEVER, ROLES, STATES, Fences, Role, State
from harness.fence.recoveries import Recovery
from harness.fence.stalls import Stall
from harness.fence.syscalls import Interruption
from harness.fence.trace import Loss, Recording
from harness.fence.waits import Wait

__all__ = ["BEFORE", "EVENTS", "NEEDED", "Ledger", "build", "unseen"]

_ANY_DRIVER = (
    *lifetimes.EVENTS,
    *recoveries.EVENTS,
    *waits.EVENTS,
    *syscalls.EVENTS,
    *stalls.EVENTS,
)
EVENTS = (
    *_ANY_DRIVER,
    *lifetimes.DRIVERS_OWN,
    *recoveries.DRIVERS_OWN,
    *stalls.DRIVERS_OWN,
    *waits.DRIVERS_OWN,
)
"""What a ledger is made of."""

NEEDED = frozenset(lifetimes.NEEDED)
"""Without these there is no account."""

BEFORE = (lifetimes.INIT,)
"""What it may know of the time before."""

_WORD = 0xFFFFFFFF


@dataclass(slots=True)
class Ledger:
    """The account of the time from `first` to `last`, ns of CLOCK_MONOTONIC.

    `predecessors`: of each fence context the last number that was made before `first`;
    `cpu_orders`: of each CPU the ranks of its events, ascending; `endings`: those of all signals
    and destructions.
    """

    first: int
    last: int
    fences: Fences
    waits: tuple[Wait, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    stalls: tuple[Stall, ...] = ()
    interruptions: tuple[Interruption, ...] = ()
    losses: tuple[Loss, ...] = ()
    jobs: tuple[JobLine, ...] = ()
    predecessors: dict[int, int] = field(default_factory=dict)
    comms: dict[int, str] = field(default_factory=dict)
    cpu_orders: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    endings: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def counts(self) -> dict[str, dict[str, int]]:
        """How many fences of each role ended in each state; what there is none of is left out."""
        pairs, numbers = np.unique(
            np.stack([self.fences.role, self.fences.state]), axis=1, return_counts=True
        )
        table: dict[str, dict[str, int]] = {}
        for (role, state), number in zip(pairs.T, numbers, strict=True):
            table.setdefault(str(ROLES[role]), {})[str(STATES[state])] = int(number)
        return table

    def surely_after(self, order: int, row: int) -> bool:
        """Whether the fence in `row` became signalled after the event of rank `order`.

        The kernel sets the flag, then traces it, with interrupts off (dma_fence_signal()): that
        CPU traced nothing in between, yet a virtual one may have stood still there.  i915 sets
        the flags of all requests that have completed, context by context, then traces them in
        the opposite order (signal_irq_work(), drivers/gpu/drm/i915/gt/intel_breadcrumbs.c):
        of a request the other ends that its CPU traced in between say nothing.
        """
        events = self.cpu_orders.get(int(self.fences.signaled_cpu[row]), np.empty(0, np.int64))
        if self.fences.has(Role.REQUEST)[row]:
            events = np.setdiff1d(events, self.endings)
        mine = self.fences.signaled_order[row]
        first, last = np.searchsorted(events, order), np.searchsorted(events, mine)
        return bool(first < last)

    def lost_between(self, begin: int, end: int) -> bool:
        """Whether any CPU lost events between two times."""
        return any(loss.after_ns <= end and loss.before_ns >= begin for loss in self.losses)

    def rows_of(self, jobs: Iterable[JobLine]) -> list[int | None]:
        """For each job the row of the fence that its handle stands for; None where not known."""
        keys = self.fences.key()  # sorted: so are the rows
        requests = np.flatnonzero(self.fences.has(Role.REQUEST))
        requests = requests[np.argsort(self.fences.born_order[requests], kind="stable")]
        return [self._row_of(job, keys, requests) for job in jobs]

    def _row_of(
        self, job: JobLine, keys: NDArray[np.uint64], requests: NDArray[np.int64]
    ) -> int | None:
        if job.context is not None and job.seqno is not None:
            return self.row_of(job.context, job.seqno, job.submitted_ns, keys)
        # A job that could not name its fence: the first request that its process made then.
        born = self.fences.born[requests]
        mine = (self.fences.maker[requests] == job.client) & (born >= job.submitted_ns)
        if job.waited_ns is not None:
            mine &= born <= job.waited_ns
        found = requests[mine]
        return int(found[0]) if len(found) else None

    def row_of(self, context: int, seqno: int, time: int, keys: NDArray[np.uint64]) -> int | None:
        """The row of the fence that had this number at `time` ns; `keys` are Fences.key()."""
        key = np.uint64((context & _WORD) << 32 | seqno & _WORD)
        first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
        for row in range(int(first), int(last)):
            # Of several lives of one number, the first that had not ended.
            gone = self.fences.destroyed[row]
            if gone == NEVER or gone >= time:
                return row
        return None


def build(
    recording: Recording,
    first: int,
    last: int | None,
    *,
    late_ns: int,
    jobs: Iterable[JobLine] = (),
    comms: Mapping[int, str] | None = None,
    before: Recording | None = None,
    cut: bool = False,
) -> Ledger:
    """The ledger of all of `recording`, in which EVENTS were read from `first` to `last`.

    `last` None: to the last event.  A fence that signals more than `late_ns` after it
    was due (Fences.due_from) is late.  `comms` names threads by pid; `before` is what was read
    of BEFORE until `first`; `cut`: it is known to be incomplete, one does not know where.
    """
    comms = dict(comms or {})
    if last is None:
        ends = (recording.table(name).time[-1:] for name in EVENTS)
        last = max([first, *(int(end[0]) for end in ends if len(end))])
    slept, recovered = waits.find(recording, comms), recoveries.find(recording)
    ledger = Ledger(
        first,
        last,
        lifetimes.find(recording),
        slept,
        recovered,
        stalls.find(recording, recovered, slept, last),
        syscalls.find(recording),
        (*recording.losses, *(_everywhere(first, last) if cut else ())),
        tuple(jobs),
        _numbered(before) if before is not None else {},
        comms,
        _by_cpu(recording),
        np.concatenate([recording.table(name).order for name in lifetimes.ENDS]),
    )
    _judge_ends(ledger, late_ns)
    _doubt(ledger)
    _join(ledger)
    _name_waits(ledger)
    return ledger


def unseen(events: Collection[str]) -> frozenset[str]:
    """What an account would be made of, and a trace of `events` cannot have."""
    missing = set(_ANY_DRIVER).difference(events)
    if not missing.issuperset(lifetimes.RUN):  # one event, by its old name or its new one
        missing -= set(lifetimes.RUN)
    if set(events).issuperset(lifetimes.DRIVERS_OWN):  # drm_sched has no part in it
        missing -= {*lifetimes.RUN, *recoveries.EVENTS}
        missing |= set(recoveries.DRIVERS_OWN).difference(events)
    return frozenset(missing)


def _everywhere(first: int, last: int) -> tuple[Loss, ...]:
    """As if one CPU might have lost something at any time."""
    return (Loss(0, first, last, None),)


def _by_cpu(recording: Recording) -> dict[int, NDArray[np.int64]]:
    """Of each CPU the ranks of its events."""
    tables = [recording.table(name) for name in EVENTS]
    cpu = np.concatenate([table.cpu for table in tables])
    order = np.concatenate([table.order for table in tables])
    return {int(one): np.sort(order[cpu == one]) for one in np.unique(cpu)}


def _numbered(before: Recording) -> dict[int, int]:
    """Of each context the number of the last fence made."""
    made = before.table(lifetimes.INIT)
    if not len(made):
        return {}
    pairs = zip(made.columns["context"].tolist(), made.columns["seqno"].tolist(), strict=True)
    return dict(pairs)


def _judge_ends(ledger: Ledger, late_ns: int) -> None:
    f = ledger.fences
    ended = f.signaled != NEVER
    f.state[ended & (f.signaled - f.due_from() > late_ns)] = STATES.index(State.LATE)
    for recovery in ledger.recoveries:
        end = recovery.end if recovery.end is not None else ledger.last
        inside = ended & (f.signaled >= recovery.begin) & (f.signaled <= end)
        # What was born in the recovery itself had nothing to be recovered from.
        inside &= f.born < recovery.begin
        f.state[inside] = STATES.index(State.IN_RECOVERY)
        f.state[inside & (f.signaler == recovery.pid)] = STATES.index(State.FORCED)


def _doubt(ledger: Ledger) -> None:
    """Where events were lost while a fence lived, that it has not ended is not known."""
    f = ledger.fences
    begin = np.where(f.born == NEVER, ledger.first, f.born)
    end = np.where(f.destroyed == NEVER, ledger.last, f.destroyed)
    open_ = f.ended(State.PENDING, State.FREED)
    for loss in ledger.losses:
        touched = open_ & (begin <= loss.before_ns) & (end >= loss.after_ns)
        f.state[touched] = STATES.index(State.UNKNOWN)


def _join(ledger: Ledger) -> None:
    """What submitters were told of their fences; the trace has no error code."""
    for job, row in zip(ledger.jobs, ledger.rows_of(ledger.jobs), strict=True):
        if job.error is not None and row is not None:
            ledger.fences.error[row] = job.error


def _name_waits(ledger: Ledger) -> None:
    """Of waits that do not say for whose fence they are."""
    f, keys = ledger.fences, ledger.fences.key()
    named = []
    for wait in ledger.waits:
        row = None if wait.driver else ledger.row_of(wait.context, wait.seqno, wait.begin, keys)
        if row is not None:
            wait = wait._replace(driver=f[row].driver, timeline=f[row].timeline)
        named.append(wait)
    ledger.waits = tuple(named)
