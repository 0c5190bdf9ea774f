"""The cursors of pipes A and B: a square of premultiplied ARGB over everything else.

Double buffered like a plane, and armed by the base register.  Only the ARGB
modes are drawn; i915 uses no other on gen3 (intel_cursor.c).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tools.gen3.latch import Control, Latch
from tools.gen3.plane import Pixels, Surface, linear
from tools.gen3.registers import Register, Registers

__all__ = ["SIZES", "Cursor"]

CNTR, BASE, POS = 0x70080, 0x70084, 0x70088
CURSOR_STRIDE = 0x40
# Bits of CURCNTR (intel_cursor_regs.h, "new style").
MODE_MASK = 0x27
PIPE_SHIFT = 28
SIZES = {0x27: 64, 0x22: 128, 0x23: 256}
"""MCURSOR_MODE_*_ARGB_AX: pixels of one side."""
SIGN, MAGNITUDE = 1 << 15, 0x7FFF


class Cursor:
    """One cursor."""

    def __init__(self, registers: Registers, index: int, written: Callable[[], None]) -> None:
        """`written` is called before each write to one of its registers takes effect."""
        at = index * CURSOR_STRIDE
        letter = "AB"[index]
        names = {CNTR: "CNTR", BASE: "BASE", POS: "POS"}
        registers.declare(Register(o + at, f"CUR{letter}{name}") for o, name in names.items())
        control = Control(CNTR + at, MODE_MASK, PIPE_SHIFT)
        self.latch = Latch(registers, [o + at for o in names], BASE + at, control, written)

    def draw(self, canvas: Pixels, surface: Surface) -> None:
        """Blend it over what its pipe shows."""
        cntr, base, pos = self.latch.active
        size = SIZES.get(cntr & MODE_MASK)
        if size is None:
            return
        x, y = _signed(pos & 0xFFFF), _signed(pos >> 16)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size, canvas.shape[1]), min(y + size, canvas.shape[0])
        if left >= right or top >= bottom:
            return
        pixels = linear(surface.read(base, size * size * 4), size, size * 4, size, 4)
        pixels = pixels[top - y : bottom - y, left - x : right - x].astype(np.uint32)
        under = canvas[top:bottom, left:right]
        keep = 255 - (pixels >> 24)
        blended = np.zeros_like(under)
        for shift in (0, 8, 16):
            below = (under >> shift & 0xFF) * keep // 255
            blended |= np.minimum((pixels >> shift & 0xFF) + below, 255) << shift
        under[:] = blended


def _signed(field: int) -> int:
    """CURPOS holds sign and magnitude."""
    return -(field & MAGNITUDE) if field & SIGN else field & MAGNITUDE
