"""Pipe CRC registers: a number for each frame that a pipe has scanned out.

The driver enables them and reads one result for each channel when PIPESTAT says
that it is done (intel_pipe_crc.c, i9xx_pipe_crc_irq_handler).  Equal pictures give
equal numbers, whatever their format or tiling; they are not those of real
hardware, whose polynomial is not public: 23 bits of zlib's CRC-32 instead.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np

from tools.gen3.plane import Pixels
from tools.gen3.registers import Kind, Register, Registers

__all__ = ["PipeCrc", "channels"]

CTL, RED, GREEN, BLUE, RES1 = 0x60050, 0x60060, 0x60064, 0x60068, 0x6006C
PIPE_STRIDE = 0x1000
ENABLE = 1 << 31
# Where the CRC is taken: 0 is the pipe; the others are ports that this chip does not have.
SOURCE_MASK = 7 << 28
BITS = (1 << 23) - 1


class PipeCrc:
    """The CRC unit of one pipe; `scanned()` returns the frame that is being scanned out."""

    def __init__(self, registers: Registers, pipe: int, scanned: Callable[[], Pixels]) -> None:
        self._registers = registers
        self._at = at = pipe * PIPE_STRIDE
        self._scanned = scanned
        # The channels of the last picture: most frames are the same as the one before.
        self._last: tuple[tuple[int, ...], int] | None = None
        self._results = (0, 0, 0, 0)
        letter = "AB"[pipe]
        registers.declare([Register(CTL + at, f"PIPE_CRC_CTL_{letter}")])
        registers.declare(
            Register(offset + at, f"PIPE_CRC_RES_{name}_{letter}", kind=Kind.READ_ONLY)
            for offset, name in (
                (RED, "RED"),
                (GREEN, "GREEN"),
                (BLUE, "BLUE"),
                (RES1, "RES1"),
            )
        )

    @property
    def enabled(self) -> bool:
        """Whether a CRC is wanted of each frame."""
        control = self._registers[CTL + self._at]
        return bool(control & ENABLE) and not control & SOURCE_MASK

    def deliver(self) -> bool:
        """A frame ended: put its CRC into the registers, if one is wanted; whether it was."""
        if not self.enabled:
            return False
        picture = self._scanned()
        key = (picture.shape, crc32(np.ascontiguousarray(picture).data))
        if key != self._last:
            self._last, self._results = key, channels(picture)
        for offset, value in zip((RED, GREEN, BLUE, RES1), self._results, strict=True):
            self._registers[offset + self._at] = value
        return True


def channels(picture: Pixels) -> tuple[int, int, int, int]:
    """The CRCs of red, green, blue, and of all of them."""
    pixels = np.ascontiguousarray(picture).astype("<u4", copy=False)
    octets = pixels.view(np.uint8).reshape(*picture.shape, 4)
    red, green, blue = (crc32(np.ascontiguousarray(octets[:, :, n]).data) & BITS for n in (2, 1, 0))
    return red, green, blue, crc32(pixels.data) & BITS
