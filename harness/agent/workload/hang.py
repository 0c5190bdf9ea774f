"""What ends a hang: a dword that the CPU writes into its buffer, by itself after a while.

Independent of the driver.  Known before the hang is submitted, so that none is ever unknown.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time

__all__ = ["Hang"]


class Hang:
    """A hang in `memory`; `release` and `end` are safe from any thread."""

    def __init__(self, memory: mmap.mmap, place: int | None, value: int, bailout: float) -> None:
        """`value` at `place` ends it, in `bailout` seconds at the latest; None: nothing does."""
        self.memory = memory
        self.place = place
        self.released_at: int | None = None
        self._value = value
        # Reentrant: the handler of SIGTERM releases, too, on a thread that may be doing it.
        self._lock = threading.RLock()
        self._timer = threading.Timer(bailout, self.release)
        self._timer.daemon = True
        self._timer.start()

    def release(self) -> bool:
        """End it; False when the CPU cannot."""
        with self._lock:
            if self.place is not None and self.released_at is None:
                at = time.monotonic_ns()
                struct.pack_into("<I", self.memory, self.place, self._value)
                self.released_at = at
        return self.place is not None

    def end(self) -> None:
        """Release it, and never touch its memory again."""
        self._timer.cancel()
        self.release()
