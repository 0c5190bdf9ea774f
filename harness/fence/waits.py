"""Waits: who slept on which fence, how, and how it ended.

A probe on dma_fence_wait_timeout() gives what its trace events leave out: the
interruptible flag and the result.  Those on the same thread belong together.

Facts: drivers/dma-buf/dma-fence.c of Linux 6.12: dma_fence_wait_start and _end
are traced inside dma_fence_wait_timeout(), and by no other wait; i915's waits for its
own requests trace themselves (drivers/gpu/drm/i915/i915_request.c), also inside those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harness.fence.trace import Recording

__all__ = ["DRIVERS_OWN", "EVENTS", "Wait", "find"]

_CALL, _RETURN = "lab:wait_begin", "lab:wait_end"
_START, _STOP = "dma_fence:dma_fence_wait_start", "dma_fence:dma_fence_wait_end"
EVENTS = (_CALL, _START, _STOP, _RETURN)
"""What `find` reads."""

DRIVERS_OWN = ("i915:i915_request_wait_begin", "i915:i915_request_wait_end")
"""And, of a driver that waits for its fences in its own way, what tells of that."""
_WORD = 0xFFFFFFFF
_INTERRUPTIBLE = 1  # I915_WAIT_INTERRUPTIBLE, i915_request.h


class Wait(NamedTuple):
    """One call.  `begin` and `end` in ns of CLOCK_MONOTONIC; `end` None while it sleeps.

    `driver` and `timeline` are "" where only the fence itself tells them.  `interruptible`
    and `result` are None where the probe could not tell; `result` is
    the jiffies left (at least 1 when it signalled), 0 when the time was up, or a negative errno.
    """

    pid: int
    comm: str
    context: int
    seqno: int
    driver: str
    timeline: str
    interruptible: bool | None
    begin: int
    end: int | None
    result: int | None

    @property
    def interrupted(self) -> bool:
        """Whether a signal, or who pretended to be one, ended it."""
        return self.result is not None and self.result < 0


def find(recording: Recording, comms: Mapping[int, str]) -> tuple[Wait, ...]:
    """In order of their beginnings."""
    tables = [recording.table(name) for name in (*EVENTS, *DRIVERS_OWN)]
    kind = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    by_order = np.argsort(np.concatenate([table.order for table in tables]))
    called: dict[int, bool] = {}
    asleep: dict[int, Wait] = {}
    ended: dict[int, Wait] = {}
    own: dict[int, Wait] = {}
    found: list[Wait] = []
    strings = recording.strings
    for at in by_order:
        table, i = tables[kind[at]], int(row[at])
        pid, now = int(table.pid[i]), int(table.time[i])
        if kind[at] == 0:
            called[pid] = bool(table.columns["intr"][i])
        elif kind[at] == 1:
            asleep[pid] = Wait(
                pid,
                comms.get(pid, ""),
                int(table.columns["context"][i]),
                int(table.columns["seqno"][i]),
                strings[int(table.columns["driver"][i])],
                strings[int(table.columns["timeline"][i])],
                called.pop(pid, None),
                now,
                None,
                None,
            )
        elif kind[at] == 2:
            if pid in ended:
                found.append(ended.pop(pid))
            if pid in asleep:
                ended[pid] = asleep.pop(pid)._replace(end=now)
        elif kind[at] == 4:
            if pid not in asleep:  # else it is that very wait
                context, seqno = (int(table.columns[name][i]) for name in ("ctx", "seqno"))
                intr = bool(int(table.columns["flags"][i]) & _INTERRUPTIBLE)
                who = (pid, comms.get(pid, ""), context & _WORD, seqno, "", "")
                own[pid] = Wait(*who, intr, now, None, None)
        elif kind[at] == 5:
            if pid in own:
                found.append(own.pop(pid)._replace(end=now))
        elif pid in ended:
            found.append(ended.pop(pid)._replace(result=int(table.columns["ret"][i])))
    found += [*ended.values(), *asleep.values(), *own.values()]
    return tuple(sorted(found, key=lambda wait: wait.begin))
