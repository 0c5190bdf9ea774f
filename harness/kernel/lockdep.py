"""What a lockdep report says: the lock wanted, the locks held, the chain between.

Source of the wording: kernel/locking/lockdep.c, print_circular_bug() and friends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.kernel.splats import Splat, function

__all__ = ["HeldLock", "LockReport", "read"]

# "ffffffff8226f140 (console_lock){+.+.}-{0:0}, at: func+0x7b/0xa0 [mod]": class names hold
# parentheses themselves, so the name ends at "){".
_LOCK = re.compile(
    r"(?:[0-9a-f]{8,16} )?\((?P<name>\S.*?)\)\{[^}]*\}(?:-\{\d+:\d+\})?(?:, at: (?P<at>\S+))?"
)
_CHAIN = re.compile(r"^\s*(\S+(?: --> \S+)+)\s*$")
_TITLE = re.compile(
    r"^(?:WARNING: |\[ (?:BUG|INFO): |INFO: )(?P<what>.*?)(?: detected)?!?(?: \])?$"
)


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock class and the function that took it."""

    name: str
    at: str

    def __str__(self) -> str:
        return f"{self.name} in {self.at}" if self.at else self.name


@dataclass(frozen=True, slots=True)
class LockReport:
    """A lockdep report, read.  `chain` holds the class names of "Chain exists of"."""

    what: str
    wanted: HeldLock | None
    held: HeldLock | None
    chain: tuple[str, ...]

    @property
    def title(self) -> str:
        """A line a kernel developer would write; built from names only."""
        title = self.what
        if self.wanted:
            title += f": {self.wanted}"
        if self.held:
            title += f" while holding {self.held}"
        return title


def read(splat: Splat) -> LockReport:
    """Read a splat of kind `lockdep`; what is not there is None or empty."""
    what = ""
    wanted = held = None
    chain: tuple[str, ...] = ()
    lines = [line.strip() for line in splat.lines]
    for index, line in enumerate(lines):
        if not what and (title := _TITLE.match(line)):
            what = title["what"]
        elif line.endswith("trying to acquire lock:") or line.endswith("is trying to lock:"):
            wanted = _lock_after(lines, index)
        elif line.endswith("already holding lock:") or line.endswith("already holding:"):
            held = _lock_after(lines, index)
        elif line.startswith("Chain exists of:") and not chain:
            for follower in lines[index + 1 : index + 4]:
                if match := _CHAIN.match(follower):
                    chain = tuple(match[1].split(" --> "))
                    break
    if wanted is None:
        wanted = next((lock for line in lines if (lock := _lock(line))), None)
    return LockReport(what or lines[0], wanted, held, chain)


def _lock_after(lines: list[str], index: int) -> HeldLock | None:
    return next((lock for line in lines[index + 1 : index + 3] if (lock := _lock(line))), None)


def _lock(line: str) -> HeldLock | None:
    match = _LOCK.search(line)
    if match is None:
        return None
    return HeldLock(match["name"], function(match["at"]) if match["at"] else "")
