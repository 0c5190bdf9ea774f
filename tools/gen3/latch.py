"""Double-buffered registers: what the driver writes is one thing, what is scanned out another.

A group is written in any order and armed by one write; a vertical blank then
takes over what stood in the group when it was armed.  A half-written group is
never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.gen3.registers import Registers

__all__ = ["Control", "Latch"]

PIPE_MASK = 0x3


@dataclass(frozen=True)
class Control:
    """The register of a group that switches it on and says on which pipe it is shown."""

    offset: int
    enables: int
    pipe_shift: int


class Latch:
    """The registers of one plane or cursor.

    `active` is what is scanned out, in the order of `offsets`.
    """

    def __init__(
        self,
        registers: Registers,
        offsets: Sequence[int],
        arm: int,
        control: Control,
        written: Callable[[bool], None],
    ) -> None:
        """A write of `arm` arms; so does one of the control register while what is scanned out
        has none of its enabling bits (i9xx_plane_update_arm of i915).  `written` is called before
        a write takes effect here, with whether it is of these two."""
        self._registers = registers
        self._offsets = tuple(offsets)
        self._control = control
        self._at = self._offsets.index(control.offset)
        self._written = written
        self._armed: tuple[int, ...] | None = None
        self.active: tuple[int, ...] = (0,) * len(self._offsets)
        acts = {arm: self._arming, control.offset: self._controlled}
        for offset in self._offsets:
            registers.on_write(offset, acts.get(offset, self._waiting))

    @property
    def on(self) -> bool:
        """Whether what is scanned out is enabled."""
        return bool(self.active[self._at] & self._control.enables)

    def shown_on(self, pipe: int) -> bool:
        """Whether it is being scanned out there."""
        return self.on and self._pipe(self.active) == pipe

    def pipe(self) -> int:
        """Which pipe shows it, or will after the armed update."""
        return self._pipe(self._armed or self.active)

    def take(self) -> None:
        """A vertical blank: what was armed is scanned out from now on."""
        if self._armed is not None:
            self.active, self._armed = self._armed, None

    def clear(self) -> None:
        """A reset: nothing is scanned out."""
        self.active, self._armed = (0,) * len(self._offsets), None

    def _waiting(self, old: int, new: int) -> None:
        self._written(False)

    def _arming(self, old: int, new: int) -> None:
        # First whatever vertical blank has passed: it takes over what was armed before.
        self._written(True)
        self._arm()

    def _controlled(self, old: int, new: int) -> None:
        self._written(True)
        if not self.on:
            self._arm()

    def _arm(self) -> None:
        self._armed = tuple(self._registers[offset] for offset in self._offsets)

    def _pipe(self, values: tuple[int, ...]) -> int:
        return values[self._at] >> self._control.pipe_shift & PIPE_MASK
