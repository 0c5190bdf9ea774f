"""Waits: who slept on which fence, how, and how it ended.

A probe on dma_fence_wait_timeout() gives what its trace events leave out: the
interruptible flag and the result.  Those on the same thread belong together.

Facts: drivers/dma-buf/dma-fence.c of Linux 6.12: dma_fence_wait_start and _end
are traced inside dma_fence_wait_timeout(), and by no other wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harness.fence.trace import Recording

__all__ = ["EVENTS", "Wait", "find"]

_CALL, _RETURN = "lab:wait_begin", "lab:wait_end"
_START, _STOP = "dma_fence:dma_fence_wait_start", "dma_fence:dma_fence_wait_end"
EVENTS = (_CALL, _START, _STOP, _RETURN)
"""What `find` reads."""


class Wait(NamedTuple):
    """One call.  `begin` and `end` in ns of CLOCK_MONOTONIC; `end` None while it sleeps.

    `interruptible` and `result` are None where the probe could not tell; `result` is
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
    tables = [recording.table(name) for name in EVENTS]
    kind = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    by_order = np.argsort(np.concatenate([table.order for table in tables]))
    called: dict[int, bool] = {}
    asleep: dict[int, Wait] = {}
    ended: dict[int, Wait] = {}
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
        elif pid in ended:
            found.append(ended.pop(pid)._replace(result=int(table.columns["ret"][i])))
    found += [*ended.values(), *asleep.values()]
    return tuple(sorted(found, key=lambda wait: wait.begin))
