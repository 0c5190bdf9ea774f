"""The cursors of pipes A and B: a square of premultiplied ARGB over everything else.

Double buffered like a plane, and armed by the base register.  Only the ARGB
modes are drawn; i915 uses no other on gen3 (intel_cursor.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.gen3.latch import Control, Latch
from tools.gen3.plane import Pixels, Surface, linear
from tools.gen3.registers import Register, Registers

__all__ = ["SIZES", "Cursor", "Sprite"]

CNTR, BASE, POS = 0x70080, 0x70084, 0x70088
CURSOR_STRIDE = 0x40
# Bits of CURCNTR (intel_cursor_regs.h, "new style").
MODE_MASK = 0x27
PIPE_SHIFT = 28
SIZES = {0x27: 64, 0x22: 128, 0x23: 256}
"""MCURSOR_MODE_*_ARGB_AX: pixels of one side."""
SIGN, MAGNITUDE = 1 << 15, 0x7FFF


@dataclass(frozen=True)
class Sprite:
    """What a cursor shows: a square of `size` pixels, its upper left at a place that may lie off
    the screen."""

    address: int
    size: int
    x: int
    y: int

    def fetch(self, surface: Surface) -> bytes:
        """All of its pixels."""
        return surface.read(self.address, self.size * self.size * 4)

    def draw(self, canvas: Pixels, fetched: bytes) -> None:
        """Blend it over what is there."""
        left, top = max(self.x, 0), max(self.y, 0)
        right = min(self.x + self.size, canvas.shape[1])
        bottom = min(self.y + self.size, canvas.shape[0])
        if left >= right or top >= bottom:
            return
        whole = linear(fetched, self.size, self.size * 4, self.size, 4)
        pixels = whole[top - self.y : bottom - self.y, left - self.x : right - self.x]
        pixels = pixels.astype(np.uint32)
        under = canvas[top:bottom, left:right]
        keep = 255 - (pixels >> 24)
        blended = np.zeros_like(under)
        for shift in (0, 8, 16):
            below = (under >> shift & 0xFF) * keep // 255
            blended |= np.minimum((pixels >> shift & 0xFF) + below, 255) << shift
        under[:] = blended


class Cursor:
    """One cursor."""

    def __init__(self, registers: Registers, index: int, written: Callable[[bool], None]) -> None:
        """`written` as Latch calls it."""
        at = index * CURSOR_STRIDE
        letter = "AB"[index]
        names = {CNTR: "CNTR", BASE: "BASE", POS: "POS"}
        registers.declare(Register(o + at, f"CUR{letter}{name}") for o, name in names.items())
        control = Control(CNTR + at, MODE_MASK, PIPE_SHIFT)
        self.latch = Latch(registers, [o + at for o in names], BASE + at, control, written)

    def sprite(self) -> Sprite | None:
        """What is scanned out; None in a mode that is not drawn."""
        cntr, base, pos = self.latch.active
        size = SIZES.get(cntr & MODE_MASK)
        return (
            None if size is None else Sprite(base, size, _signed(pos & 0xFFFF), _signed(pos >> 16))
        )


def _signed(field: int) -> int:
    """CURPOS holds sign and magnitude."""
    return -(field & MAGNITUDE) if field & SIGN else field & MAGNITUDE
