"""Lifetimes: dma_fence events -> one row for each fence that a trace saw.

An init begins a new life of its (context, seqno), a destroy ends one; what a
fence is to a job is told by who made it, where, and between which events.

Facts: include/trace/events/dma_fence.h, drivers/dma-buf/dma-fence.c,
drivers/gpu/drm/scheduler/{sched_fence.c,sched_main.c} and drivers/gpu/drm/i915/i915_trace.h
of Linux 6.1 to 6.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.fence.fences import NEVER, NO_ERROR_KNOWN, ROLES, STATES, Fences, Role, State
from harness.fence.trace import Recording, Strings

__all__ = ["DRIVERS_OWN", "ENDS", "EVENTS", "INIT", "NEEDED", "RUN", "find"]

_INIT, _ENABLE, _SIGNALED, _DESTROY = range(4)
_KINDS = (
    "dma_fence:dma_fence_init",
    "dma_fence:dma_fence_enable_signal",
    "dma_fence:dma_fence_signaled",
    "dma_fence:dma_fence_destroy",
)
# A scheduler is about to call its driver's run_job; renamed after 6.12.
RUN = ("gpu_scheduler:drm_run_job", "gpu_scheduler:drm_sched_job_run")
INIT = _KINDS[_INIT]
ENDS = (_KINDS[_SIGNALED], _KINDS[_DESTROY])
NEEDED = (INIT, *ENDS)
EVENTS = (*_KINDS, *RUN)
"""What `find` reads."""

_QUEUE = "i915:i915_request_queue"
DRIVERS_OWN = (_QUEUE,)
"""And, of drivers with a scheduler of their own, what tells which fences are userspace's jobs'."""

_SCHEDULER = "drm_sched"  # drm_sched_fence_get_driver_name()

Int = NDArray[np.int64]


@dataclass(slots=True)
class _Events:
    """The dma_fence events of all kinds, sorted by fence, then by order."""

    kind: NDArray[np.int8]
    time: Int
    order: Int
    pid: NDArray[np.int32]
    cpu: Int
    key: NDArray[np.uint64]
    driver: NDArray[np.int32]
    timeline: NDArray[np.int32]


def find(recording: Recording) -> Fences:
    """Every fence of which `recording` has an event, all PENDING, IN_TIME or FREED as yet.

    Stub fences (context 0, signalled from birth: dma_fence_get_stub()) are left out.
    """
    events = _gather(recording)
    fences = _group(recording.strings, events)
    _find_roles(fences)
    _find_hardware(fences, recording)
    _find_requests(fences, recording)
    _follow_renumbered(fences)
    _doubt_shared(fences)
    return fences


def _gather(recording: Recording) -> _Events:
    # An event that the target's kernel lacks has no columns.
    tables = [(kind, recording.table(name)) for kind, name in enumerate(_KINDS)]
    tables = [(kind, table) for kind, table in tables if len(table)]
    wide = np.uint64

    def joined(name: str, kind: type[np.generic]) -> NDArray[Any]:
        columns = [table.columns[name].astype(kind) for _, table in tables]
        return np.concatenate([np.empty(0, kind), *columns])

    kinds = [np.full(len(table), kind, np.int8) for kind, table in tables]
    context = joined("context", wide)
    key = context << wide(32) | joined("seqno", wide)
    order = _all([table.order for _, table in tables])
    kept = np.flatnonzero(context)
    kept = kept[np.lexsort((order[kept], key[kept]))]
    return _Events(
        np.concatenate([np.empty(0, np.int8), *kinds])[kept],
        _all([table.time for _, table in tables])[kept],
        order[kept],
        _all([table.pid for _, table in tables])[kept].astype(np.int32),
        _all([table.cpu for _, table in tables])[kept],
        key[kept],
        joined("driver", np.int32)[kept],
        joined("timeline", np.int32)[kept],
    )


def _all(parts: list[NDArray[Any]]) -> Int:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _group(strings: Strings, events: _Events) -> Fences:
    begins = np.ones(len(events.key), dtype=bool)
    begins[1:] = (
        (events.key[1:] != events.key[:-1])
        | (events.kind[1:] == _INIT)
        | (events.kind[:-1] == _DESTROY)
    )
    starts = np.flatnonzero(begins)
    life = np.cumsum(begins) - 1
    count = len(starts)

    def first(kind: int, values: NDArray[np.generic], missing: int) -> NDArray[np.int64]:
        """Of each life the first event of `kind`."""
        column = np.full(count, missing, dtype=np.int64)
        at = np.flatnonzero(events.kind == kind)[::-1]  # backwards: the first is written last
        column[life[at]] = values[at]
        return column

    key = events.key[starts]
    signaled = first(_SIGNALED, events.time, NEVER)
    destroyed = first(_DESTROY, events.time, NEVER)
    state = np.full(count, STATES.index(State.PENDING), dtype=np.uint8)
    state[destroyed != NEVER] = STATES.index(State.FREED)
    state[signaled != NEVER] = STATES.index(State.IN_TIME)
    return Fences(
        strings,
        (key >> np.uint64(32)).astype(np.uint32),
        (key & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        # The names of the first event: later kernels rename what has signalled.
        events.driver[starts],
        events.timeline[starts],
        np.zeros(count, dtype=np.uint8),
        state,
        first(_INIT, events.time, NEVER),
        first(_ENABLE, events.time, NEVER),
        signaled,
        destroyed,
        first(_INIT, events.pid, 0).astype(np.int32),
        first(_SIGNALED, events.pid, 0).astype(np.int32),
        np.full(count, NEVER, dtype=np.int64),
        np.full(count, NO_ERROR_KNOWN, dtype=np.int32),
        np.zeros(count, dtype=bool),
        first(_INIT, events.order, NEVER),
        first(_ENABLE, events.order, NEVER),
        first(_SIGNALED, events.order, NEVER),
        first(_SIGNALED, events.cpu, NEVER),
    )


def _find_roles(fences: Fences) -> None:
    """The scheduler makes its two fences one after the other on the same thread: scheduled on
    context c, finished on c + 1, with the same number (drm_sched_fence_init)."""
    mine = fences.driven_by(_SCHEDULER)
    born = np.flatnonzero(mine & (fences.born_order != NEVER))
    born = born[np.lexsort((fences.born_order[born], fences.maker[born]))]
    a, b = born[:-1], born[1:]
    paired = (
        (fences.maker[a] == fences.maker[b])
        & (fences.context[a] + np.uint32(1) == fences.context[b])
        & (fences.seqno[a] == fences.seqno[b])
    )
    # Of entities made one after the other 20:1 21:1 22:1 23:1 are two pairs, not three.
    at = np.arange(len(paired))
    begins = np.maximum.accumulate(np.where(paired & ~np.roll(paired, 1), at, 0))
    paired &= (at - begins) % 2 == 0
    scheduled, finished = a[paired], b[paired]
    for role, rows in ((Role.SCHEDULED, scheduled), (Role.FINISHED, finished)):
        # A context keeps its role, also for the fences whose birth was not seen.
        same = np.isin(fences.context, np.unique(fences.context[rows]))
        fences.role[mine & same] = ROLES.index(role)
    fences.job[scheduled] = finished
    fences.job[finished] = finished


def _find_hardware(fences: Fences, recording: Recording) -> None:
    """A driver's run_job makes its fence on the scheduler's thread, between the event that
    says so and the signalling of the scheduled fence (drm_sched_run_job_work)."""
    runs = [table for table in map(recording.table, RUN) if len(table)]
    scheduled = np.flatnonzero(
        fences.has(Role.SCHEDULED) & (fences.signaled != NEVER) & (fences.job != NEVER)
    )
    others = np.flatnonzero(~fences.driven_by(_SCHEDULER) & (fences.born_order != NEVER))
    if not runs or not len(scheduled) or not len(others):
        return
    # On each thread in order: run, births, signalled.
    pid = np.concatenate(
        [*(run.pid for run in runs), fences.maker[others], fences.signaler[scheduled]]
    )
    order = np.concatenate(
        [
            *(run.order for run in runs),
            fences.born_order[others],
            fences.signaled_order[scheduled],
        ]
    )
    ran = sum(len(run) for run in runs)
    row = np.concatenate([np.full(ran, NEVER), others, fences.job[scheduled]])
    what = np.repeat(np.arange(3), [ran, len(others), len(scheduled)])
    by_thread = np.lexsort((order, pid))
    pid, row, what = pid[by_thread], row[by_thread], what[by_thread]
    position = np.arange(len(what))
    # For each end: where the run before it began.  The last birth between is what was returned.
    last_run = np.maximum.accumulate(np.where(what == 0, position, -1))
    ends = np.flatnonzero(what == 2)
    ends = ends[ends > 0]
    birth = ends - 1
    good = (what[birth] == 1) & (pid[birth] == pid[ends]) & (last_run[birth] >= 0)
    good &= pid[last_run[birth]] == pid[ends]
    fences.role[row[birth[good]]] = ROLES.index(Role.HW)
    fences.job[row[birth[good]]] = row[ends[good]]


def _find_requests(fences: Fences, recording: Recording) -> None:
    """The driver names the request of each execbuf by its fence's context and number, right
    after it has made that (i915_gem_execbuffer.c)."""
    queue = recording.table(_QUEUE)
    if not len(queue):
        return
    word = np.uint64(0xFFFFFFFF)
    context = queue.columns["ctx"].astype(np.uint64) & word
    key = context << np.uint64(32) | queue.columns["seqno"].astype(np.uint64) & word
    # Of several lives of one number the last that had begun.
    keys = np.concatenate([fences.key(), key])
    order = np.concatenate([fences.born_order, queue.order])
    row = np.concatenate([np.arange(len(fences)), np.full(len(queue), NEVER)])
    sorted_ = np.lexsort((order, keys))
    keys, row = keys[sorted_], row[sorted_]
    last = np.maximum.accumulate(np.where(row == NEVER, 0, np.arange(len(row))))
    named = np.flatnonzero(row == NEVER)
    named = named[(row[last[named]] != NEVER) & (keys[last[named]] == keys[named])]
    found = row[last[named]]
    fences.role[found] = ROLES.index(Role.REQUEST)
    fences.job[found] = found


def _follow_renumbered(fences: Fences) -> None:
    """A resubmitted amdgpu job's hw fence gets a new number without a new init
    (amdgpu_fence_emit): its old number never ends, its new one has no birth."""
    ended = np.array([STATES.index(State.PENDING)], dtype=np.uint8)
    open_rows = np.flatnonzero(fences.has(Role.HW) & np.isin(fences.state, ended))
    orphans = np.flatnonzero((fences.born == NEVER) & (fences.signaled != NEVER))
    if not len(open_rows) or not len(orphans):
        return
    gone: list[int] = []
    for row in open_rows[np.argsort(fences.born_order[open_rows])]:
        same = orphans[
            (fences.context[orphans] == fences.context[row])
            & (fences.signaled_order[orphans] > fences.born_order[row])
            & ((fences.seqno[orphans] - fences.seqno[row]).astype(np.int32) > 0)
            & ~np.isin(orphans, gone)
        ]
        if len(same):
            orphan = int(same[np.argmin(fences.signaled_order[same])])
            gone.append(orphan)
            for column in (
                fences.signaled,
                fences.destroyed,
                fences.signaler,
                fences.signaled_order,
                fences.signaled_cpu,
                fences.state,
            ):
                column[row] = column[orphan]
            fences.renumbered[row] = True
    # The orphans' rows were the same fences'.
    _drop(fences, np.array(gone, dtype=np.int64))


def _doubt_shared(fences: Fences) -> None:
    """Where a number was given again before its first bearer had ended, nobody knows whose the
    end is: amdgpu's TLB fences may share one (amdgpu_vm_tlb_fence.c)."""
    key = fences.key()
    again = np.append(key[1:] == key[:-1], False)
    fences.state[again & fences.ended(State.PENDING)] = STATES.index(State.UNKNOWN)


def _drop(fences: Fences, rows: Int) -> None:
    if not len(rows):
        return
    kept = np.ones(len(fences), dtype=bool)
    kept[rows] = False
    moved = np.cumsum(kept) - 1
    fences.job = np.where(fences.job == NEVER, NEVER, moved[fences.job])
    for name in Fences.__slots__:
        if name != "strings":
            setattr(fences, name, getattr(fences, name)[kept])
