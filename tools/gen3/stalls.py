"""When the model's only thread stood still, and over what.

The guest's processor waits for the model.  A guest that was kept waiting for
seconds reports lockups, and only the model can tell that they are not its kernel's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["LIMIT_NS", "Stalls"]

LIMIT_NS = 1_000_000_000
"""What is told; the guest's own watchdogs begin at several seconds."""


class Stalls:
    """Counts what took longer than a second, and tells it on stderr, which is gen3.log."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._count = 0
        self._longest = 0

    def took(self, what: str, since: int, allowed: int = 0) -> int:
        """`what` has gone on since then, `allowed` ns of it as it should; returns the time."""
        now = self._clock()
        ns = now - since - allowed
        if ns > self._longest:
            self._longest = ns
        if ns >= LIMIT_NS:
            self._count += 1
            print(f"gen3: stall: {what}: {ns / 1e9:.1f} s", file=sys.stderr, flush=True)
        return now

    def state(self) -> dict[str, int]:
        """How many there were, and the longest that anything took, in ms."""
        return {"stalls": self._count, "longest_ms": self._longest // 1_000_000}
