"""GDRST, the reset register in configuration space.

A gen3 reset takes everything with it, the display too: that is why i915 has
to save and restore the mode around it.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.gen3.faults import Faults
from tools.gen3.part import Clock

__all__ = ["GDRST", "Reset"]

# I915_GDRST and its bits, in i915_reg.h.
GDRST = 0xC0
ENABLE = 1 << 0
STATUS = 1 << 1


class Reset:
    """One byte of configuration space; `done` is called when a reset takes effect."""

    def __init__(
        self, clears_itself: bool, done: Callable[[], None], faults: Faults, clock: Clock
    ) -> None:
        self._clears_itself = clears_itself
        self._done = done
        self._faults = faults
        self._clock = clock
        self._value = 0
        self._at: int | None = None
        self.count = 0
        """Resets that took effect."""
        self.asked = 0
        """Resets asked for."""

    def read(self) -> int:
        """The byte as the driver polls it."""
        self.tick(self._clock())
        return self._value

    def write(self, value: int) -> None:
        """Bit 0 asks for a reset; writing 0 on 945G ends it, and its status."""
        if not value & ENABLE:
            self._value = 0
            self._at = None
            return
        # One that is under way, or that 945G holds, goes on.  One that was never acknowledged is
        # asked for anew: i915 does not write 0 between two attempts on G33 (g33_do_reset).
        if self._at is not None or self._value & STATUS:
            return
        self._value = ENABLE
        self.asked += 1
        delay = self._faults.reset_delay()
        if delay is not None:
            now = self._clock()
            self._at = now + delay
            self.tick(now)

    def due(self) -> int | None:
        """When an acknowledge that was told to come late comes."""
        return self._at

    def tick(self, now: int) -> None:
        """Acknowledge what is due."""
        if self._at is None or now < self._at:
            return
        self._at = None
        self._value = 0 if self._clears_itself else ENABLE | STATUS
        self.count += 1
        self._done()
