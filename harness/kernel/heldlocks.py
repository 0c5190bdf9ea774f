"""Held locks: what lockdep says each task holds, or is about to get.

Facts: kernel/locking/lockdep.c of Linux 6.12, debug_show_all_locks(), which sysrq-d
prints: a task's last lock may be the one that it waits for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from harness.kernel.lockdep_lines import INSTANCE

__all__ = ["HeldLock", "parse"]

# "2 locks held by kworker/u8:1/45:" or "1 lock held by lab-kms/312:"
_TASK = re.compile(r"^\d+ locks? held by .*/(?P<pid>\d{1,18}):$")
# " #1: ffff888004a0b2a8 (crtc_ww_class_mutex){+.+.}-{4:4}, at: drm_modeset_lock+0x19/0x20"
_LOCK = re.compile(
    rf"^ #\d+: (?P<address>{INSTANCE}) "
    r"\((?P<name>.+)\)\{[^}]*\}"
    r"(?:-\{\d+:\d+\})?, at: (?P<where>\S+)"
)


class HeldLock(NamedTuple):
    """One lock of a task; `address` is its lockdep map's, `where` the function that asked."""

    name: str
    address: str
    where: str


def parse(lines: Iterable[str]) -> dict[int, tuple[HeldLock, ...]]:
    """By task, in the order in which it asked for them.  Lines of anything else are skipped."""
    found: dict[int, list[HeldLock]] = {}
    current: list[HeldLock] | None = None
    for line in lines:
        if match := _TASK.match(line):
            current = found.setdefault(int(match["pid"]), [])
        elif current is not None and (match := _LOCK.match(line)):
            current.append(HeldLock(match["name"], match["address"], match["where"]))
    return {pid: tuple(locks) for pid, locks in found.items()}
