"""A point in time by which something must be done.

Made once where a limit is known and passed down, so that nested waits share
one budget instead of adding theirs up.
"""

from __future__ import annotations

import time

__all__ = ["Deadline"]


class Deadline:
    """A point on CLOCK_MONOTONIC.  Immutable; safe to share between threads."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        """`seconds` from now; what was asked for stays readable for messages."""
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - time.monotonic())

    def expired(self) -> bool:
        """Whether the time has come."""
        return time.monotonic() >= self._at

    def capped(self, seconds: float) -> Deadline:
        """A deadline at most `seconds` from now and never after this one."""
        return Deadline(min(seconds, self.left()))

    def pause(self, seconds: float) -> bool:
        """Sleep `seconds` or until the deadline; False when it had already come."""
        if self.expired():
            return False
        time.sleep(min(seconds, self.left()))
        return True

    def __repr__(self) -> str:
        return f"Deadline({self.seconds:g}s, {self.left():.3f}s left)"
