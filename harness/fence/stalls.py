"""Stalls: where a recovery stood still behind a wait for a fence, and who it was that waited.

A recovery may want a modeset lock whose holder waits for a fence, or a commit whose
worker does, or wait for the fence itself.  Probes on DRM's core tell, for any driver.

Facts: drivers/gpu/drm/{drm_modeset_lock.c,drm_atomic.c,drm_atomic_helper.c} of Linux 6.12.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.fence.recoveries import Recovery
from harness.fence.trace import Recording
from harness.fence.waits import Wait

__all__ = ["DRIVERS_OWN", "EVENTS", "Behind", "Stall", "find"]

_LOCK = ("lab:lock_begin", "lab:lock_end")
_UNLOCK = "lab:unlock"
# No ioctl of DRM's leaves with a modeset lock.
_EXIT = "raw_syscalls:sys_exit"
_COMMIT = ("lab:commit_begin", "lab:commit_end")
_SETUP = ("lab:setup_begin", "lab:setup_end")
_SWAP = ("lab:swap_begin", "lab:swap_end")
_DISPLAY = ("lab:display_begin", "lab:display_end")
_DONE = "lab:commit_done"
EVENTS = (*_LOCK, _UNLOCK, *_COMMIT, *_SETUP, *_SWAP, _DONE)
"""What `find` reads of any driver."""

DRIVERS_OWN = _DISPLAY
"""And what only some drivers have."""

# Shorter ones are how locks are meant to be used.
_SHORTEST_NS = 100_000_000


class Behind(StrEnum):
    """What a recovery stood still behind."""

    LOCK = "a modeset lock"
    COMMIT = "a commit"
    FENCE = "the fence itself"


class Stall(NamedTuple):
    """`pid` recovered and stood still behind `wait.pid`, which waited for a fence, from `begin`
    to `end` ns; `end` None: until the account's end.

    `what` is the address of the lock or of the commit's state, 0 for the fence itself; `since`
    when `pid` asked for it, `until` when it went on.  `display`: it was about to reset the
    display.  `sure`: the trace would have told, had `wait.pid` let go of the lock.
    """

    pid: int
    behind: Behind
    what: int
    since: int
    until: int | None
    begin: int
    end: int | None
    wait: Wait
    display: bool
    sure: bool = True


class _Calls(NamedTuple):
    """Calls of one function, in order of their beginnings; `end` is -1 for one that goes on."""

    pid: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    value: NDArray[np.uint64]
    result: NDArray[np.int64]

    def of(self, pid: int, first: int, last: int) -> Iterator[tuple[int, int | None, int]]:
        """(begin, end, value) of the long calls of a thread that began between two times."""
        mine = (self.pid == pid) & (self.begin >= first) & (self.begin <= last)
        long = (self.end < 0) | (self.end - self.begin >= _SHORTEST_NS)
        for at in np.flatnonzero(mine & long).tolist():
            end = int(self.end[at])
            yield int(self.begin[at]), None if end < 0 else end, int(self.value[at])


def find(
    recording: Recording, recoveries: Sequence[Recovery], waits: Sequence[Wait], last: int
) -> tuple[Stall, ...]:
    """In order of their beginnings; `last` is the account's end."""
    if not recoveries:
        return ()
    locks = _calls(recording, *_LOCK, "lock")
    commits = [_calls(recording, *stem, "commit") for stem in (_COMMIT, _SETUP, _SWAP)]
    display = _calls(recording, *_DISPLAY, "")
    done = recording.table(_DONE)
    sleeps: dict[int | None, list[Wait]] = defaultdict(list)
    for wait in waits:
        sleeps[wait.pid].append(wait)
    found = []
    for recovery in recoveries:
        pid, first, final = recovery.pid, recovery.begin, recovery.end or last
        for since, until, lock in locks.of(pid, first, final):
            for wait, sure in _held(recording, locks, lock, pid, since, sleeps):
                stall = _stall(pid, Behind.LOCK, lock, since, until, wait)
                found.append(stall and stall._replace(sure=sure))
        for since, until, commit in chain(*(each.of(pid, first, final) for each in commits)):
            ended = until or last
            between = (done.time >= since) & (done.time <= ended) & (done.pid != pid)
            able = [wait for wait in waits if wait.pid != pid and _commits(wait, commits)]
            for wait in sleeps[_worker(done.pid[between], able, since, ended)]:
                found.append(_stall(pid, Behind.COMMIT, commit, since, until, wait))
        for wait in sleeps[pid]:
            if first <= wait.begin <= final:
                found.append(_stall(pid, Behind.FENCE, 0, wait.begin, wait.end, wait))
    real = [one for one in found if one is not None and _long(one, last)]
    real = [one._replace(display=_within(display, one)) for one in real]
    return tuple(sorted(real, key=lambda stall: stall.begin))


def _calls(recording: Recording, begin: str, end: str, argument: str) -> _Calls:
    """Of each thread a beginning and the next end; none of these functions calls itself."""
    tables = [recording.table(name) for name in (begin, end)]
    size = len(tables[0])
    pid = np.concatenate([table.pid for table in tables]).astype(np.int64)
    order = np.concatenate([table.order for table in tables])
    time = np.concatenate([table.time for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    begins = np.arange(len(pid)) < size
    by_thread = np.lexsort((order, pid))
    pid, time, row, begins = pid[by_thread], time[by_thread], row[by_thread], begins[by_thread]
    at = np.flatnonzero(begins)
    after = np.minimum(at + 1, len(pid) - 1)
    same = (after > at) & (pid[after] == pid[at])
    # The return of a call that another one followed was missed: nobody knows when it ended.
    missed = same & begins[after]
    at, after, same = at[~missed], after[~missed], same[~missed]
    value, result = np.zeros(len(at), np.uint64), np.zeros(len(at), np.int64)
    if argument and size:
        value = tables[0].columns[argument].astype(np.uint64)[row[at]]
    if len(tables[1]) and "ret" in tables[1].columns:
        result[same] = tables[1].columns["ret"].astype(np.int64)[row[after[same]]]
    return _Calls(pid[at], time[at], np.where(same, time[after], -1), value, result)


def _held(
    recording: Recording,
    locks: _Calls,
    lock: int,
    asker: int,
    since: int,
    sleeps: Mapping[int | None, Sequence[Wait]],
) -> Iterator[tuple[Wait, bool]]:
    """The waits of who has a lock that `asker` has to wait for, whoever was the last to get it,
    while it has it; and whether the trace would tell that it had let go."""
    got = (locks.value == np.uint64(lock)) & (locks.end >= 0) & (locks.end <= since)
    got &= (locks.result == 0) & (locks.pid != asker)
    rows = np.flatnonzero(got)
    if not len(rows):
        return
    row = rows[np.argmax(locks.end[rows])]
    pid, taken = int(locks.pid[row]), int(locks.end[row])
    unlocks, left = recording.table(_UNLOCK), recording.table(_EXIT)
    mine = left.time[left.pid == pid]
    gone = mine[mine >= taken]
    if len(unlocks):
        its = (unlocks.columns["lock"] == np.uint64(lock)) & (unlocks.pid == pid)
        gone = np.append(gone, unlocks.time[its & (unlocks.time >= taken)])
    let_go = int(gone.min()) if len(gone) else None
    for wait in sleeps[pid]:
        if let_go is None or (let_go > since and let_go > wait.begin):
            yield wait, bool(len(mine) or len(unlocks))


def _commits(wait: Wait, commits: Sequence[_Calls]) -> bool:
    """Whether who waits may be carrying out a commit: a worker, or a thread that made one."""
    return wait.comm.startswith("kworker") or any(wait.pid in each.pid for each in commits)


def _worker(done: NDArray[np.int32], waits: Sequence[Wait], since: int, until: int) -> int | None:
    """Who executed the commit that was waited for: the last to finish one meanwhile, else
    whoever of those that wait for a fence did so all that time, if that was one thread only."""
    if len(done):
        return int(done[-1])
    asleep = {wait.pid for wait in waits if wait.begin <= since and (wait.end or until) >= until}
    return asleep.pop() if len(asleep) == 1 else None


def _stall(
    pid: int, behind: Behind, what: int, since: int, until: int | None, wait: Wait
) -> Stall | None:
    """From when both lasted, if they did, until `pid` went on: what a commit still does after
    its wait keeps it waiting, too, unless that is the larger part."""
    begin = max(since, wait.begin)
    ends = [end for end in (until, wait.end) if end is not None]
    end = min(ends) if ends else None
    if end is not None and end <= begin:
        return None
    if end is not None and until is not None and 2 * (end - begin) >= until - begin:
        end = until
    return Stall(pid, behind, what, since, until, begin, end, wait, False)


def _long(stall: Stall, last: int) -> bool:
    return (stall.end or last) - stall.begin >= _SHORTEST_NS


def _within(display: _Calls, stall: Stall) -> bool:
    inside = (display.pid == stall.pid) & (display.begin <= stall.begin)
    inside &= (display.end < 0) | (display.end >= stall.begin)
    return bool(inside.any())
