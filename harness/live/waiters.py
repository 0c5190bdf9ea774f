"""What each of many waiters for one job was told, and when: those whom signals hit, and the others.

Read from a workload's reply; a testcase judges.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LATE", "READY", "STUCK", "Waiter", "named"]

READY, LATE, STUCK = "ready", "not in time", "still waiting"
# Of the kernel's own errors that userspace must never see (include/linux/errno.h).
_KERNEL_ONLY = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}


def named(error: int) -> str:
    """A negative errno by its name, the kernel's own among them."""
    return errno.errorcode.get(-error) or _KERNEL_ONLY.get(-error) or str(error)


@dataclass(frozen=True, slots=True)
class Waiter:
    """One thread in one system call, which it made again only after EAGAIN, or where SA_RESTART
    is no help (`restarts`) after EINTR.

    `result` is READY, LATE (its time was over), STUCK, or the errno's name.  `disturbed`: of
    `signals` sent while it slept in its call `handled` interrupted it.  `timed`: it takes a
    timeout, which was over at `until`.  `began`, `until` and `ended` are seconds from the job's
    submission.
    """

    name: str
    result: str
    disturbed: bool
    timed: bool
    restarts: bool
    signals: int
    handled: int
    began: float
    until: float
    ended: float

    @classmethod
    def told(cls, reply: Mapping[str, Any]) -> Waiter:
        """From one of the "waiters" of a workload's reply."""
        result = reply["result"]
        known = {None: STUCK, 1: READY, 0: LATE}
        return cls(
            name=reply["name"],
            result=known[result] if result in known else named(result),
            disturbed=reply["disturbed"],
            timed=reply["timed"],
            restarts=reply["restarts"],
            signals=reply["signals"],
            handled=reply["handled"],
            began=reply["began_ns"] / 1e9,
            until=reply["until_ns"] / 1e9,
            ended=float("inf") if reply["ended_ns"] is None else reply["ended_ns"] / 1e9,
        )

    def __str__(self) -> str:
        how = f", {self.handled} signals," if self.disturbed else ""
        return f"{self.name}{how} from {self.began:.3f} s to {self.ended:.3f} s: {self.result}"
