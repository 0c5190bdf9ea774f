"""Interrupted system calls: which the kernel restarted unnoticed, which userspace saw.

An interruptible fence wait that a reset wakes must be restarted: the call ends
with a kernel-internal error, and the same thread enters the same call again
before it runs any of its own code.

Facts: include/linux/errno.h (512 to 516 never reach userspace),
kernel/entry/common.c (sys_exit is traced before a signal or a restart is
looked for), kernel/signal.c (get_signal traces each delivery, fatal ones too).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from harness.fence.trace import Recording

__all__ = ["EVENTS", "Ending", "Interruption", "find"]

_ENTER, _EXIT = "raw_syscalls:sys_enter", "raw_syscalls:sys_exit"
_DELIVER = "signal:signal_deliver"
EVENTS = (_ENTER, _EXIT, _DELIVER)
"""What `find` reads; only of the calls that the collector's filter let through."""

_EINTR = 4
RESTARTS = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}
# ioctl(2): the letter of DRM's commands, include/uapi/drm/drm.h.
_DRM = ord("d")


class Ending(StrEnum):
    """What became of a call that was interrupted."""

    RESTARTED = "restarted"
    SIGNAL = "signal"
    LEAKED = "leaked"
    EINTR = "EINTR without a signal"
    OPEN = "not seen"


class Interruption(NamedTuple):
    """A DRM ioctl that ended with `error`, positive as in errno.h, at `time` ns; `until` is when
    its thread was seen again, `time` where it was not."""

    pid: int
    command: int
    time: int
    error: int
    ending: Ending
    until: int

    @property
    def errname(self) -> str:
        """The error as errno.h writes it."""
        return RESTARTS.get(self.error, "EINTR")


def find(recording: Recording) -> tuple[Interruption, ...]:
    """In order of time.

    `OPEN` where nothing of the thread was seen afterwards: it may sleep in the restarted
    call's way, or have ended.
    """
    tables = [recording.table(name) for name in EVENTS]
    if not len(tables[0]) or not len(tables[1]):
        return ()
    kind = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    pid = np.concatenate([table.pid for table in tables])
    order = np.concatenate([table.order for table in tables])
    exits = tables[1]
    sorted_ = np.lexsort((order, pid))
    kind, row, pid = kind[sorted_], row[sorted_], pid[sorted_]
    results = exits.columns["ret"].astype(np.int64)
    wanted = np.isin(-results, [_EINTR, *RESTARTS])
    found = []
    for at in np.flatnonzero(kind == 1):
        if not wanted[row[at]] or at == 0 or kind[at - 1] != 0 or pid[at - 1] != pid[at]:
            continue
        entered = tables[0].columns["args"][row[at - 1]]
        command = int(entered[1]) & 0xFFFFFFFF
        if command >> 8 & 0xFF != _DRM:
            continue
        error = int(-results[row[at]])
        ending, until = Ending.OPEN, int(exits.time[row[at]])
        if at + 1 < len(kind) and pid[at + 1] == pid[at]:
            following = int(kind[at + 1])
            until = int(tables[following].time[row[at + 1]])
            if following == 2:
                ending = Ending.SIGNAL
            elif error == _EINTR:
                ending = Ending.EINTR
            else:
                again = tables[0]
                same = following == 0 and (
                    again.columns["id"][row[at + 1]] == exits.columns["id"][row[at]]
                    and bool((again.columns["args"][row[at + 1]] == entered).all())
                )
                ending = Ending.RESTARTED if same else Ending.LEAKED
        time = int(exits.time[row[at]])
        found.append(Interruption(int(pid[at]), command, time, error, ending, until))
    return tuple(sorted(found, key=lambda one: one.time))
