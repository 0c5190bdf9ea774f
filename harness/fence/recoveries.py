"""Recoveries: when TDR ran, on which thread, from probes on its entry and return.

A probe's time is the kernel's own, where the log's text would only be near it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.fence.trace import Recording

__all__ = ["DRIVERS_OWN", "EVENTS", "Recovery", "find"]

EVENTS = ("lab:tdr_begin", "lab:tdr_end")
"""What `find` reads: drm_sched_job_timedout() of drivers/gpu/drm/scheduler/sched_main.c."""

DRIVERS_OWN = ("lab:reset_begin", "lab:reset_end")
"""And, of a driver that recovers without drm_sched, what gpu/observe.py names."""


class Recovery(NamedTuple):
    """One run of a timeout handler.  ns of CLOCK_MONOTONIC; `end` None where it never returned."""

    begin: int
    end: int | None
    pid: int


def find(recording: Recording) -> tuple[Recovery, ...]:
    """In order of their beginnings.  A handler that was running when the trace began has none."""
    found = [*_between(recording, *EVENTS), *_between(recording, *DRIVERS_OWN)]
    return tuple(sorted(found, key=lambda recovery: (recovery.begin, recovery.pid)))


def _between(recording: Recording, begin: str, end: str) -> list[Recovery]:
    tables = [recording.table(name) for name in (begin, end)]
    order = np.concatenate([table.order for table in tables])
    time = np.concatenate([table.time for table in tables])
    pid = np.concatenate([table.pid for table in tables])
    begins = np.repeat([True, False], [len(table) for table in tables])
    running: dict[int, int] = {}
    found: list[Recovery] = []
    for at in np.argsort(order):
        thread, now = int(pid[at]), int(time[at])
        if begins[at]:
            if thread in running:  # its return was missed: a new one on the same thread ends it
                found.append(Recovery(running[thread], now, thread))
            running[thread] = now
        elif thread in running:
            found.append(Recovery(running.pop(thread), now, thread))
    found += [Recovery(since, None, thread) for thread, since in running.items()]
    return found
