"""Display planes A and B: a rectangle of pixels fetched through the GGTT.

The registers are double buffered (latch.py).  A tiled surface needs no bit
here: gen3 scans out through a fence register, as the CPU reads the aperture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tools.gen3.latch import Control, Latch
from tools.gen3.registers import Register, Registers

__all__ = ["FORMATS", "Pixels", "Plane", "Shape", "Surface", "linear"]

Pixels = npt.NDArray[np.uint32]
"""Rows of 0x00RRGGBB."""

CNTR, ADDR, STRIDE, POS, SIZE = 0x70180, 0x70184, 0x70188, 0x7018C, 0x70190
PLANE_STRIDE = 0x1000
# Bits of DSPCNTR (i9xx_plane_regs.h).
ENABLE, GAMMA = 1 << 31, 1 << 30
FORMAT_SHIFT, FORMAT_MASK = 26, 0xF
PIPE_SHIFT = 24

INDEXED = 2
# DISP_FORMAT: name, bytes of a pixel.  What i915 offers on gen3 (i8xx_plane_formats), and the
# other order of 8:8:8.
FORMATS = {
    INDEXED: ("C8", 1),
    3: ("ARGB1555", 2),
    4: ("XRGB1555", 2),
    5: ("RGB565", 2),
    6: ("XRGB8888", 4),
    7: ("ARGB8888", 4),
    14: ("XBGR8888", 4),
    15: ("ABGR8888", 4),
}


class Surface(Protocol):
    """Memory as the display engine fetches it, by graphics address."""

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes, detiled where a fence says so."""


@dataclass(frozen=True)
class Shape:
    """What a plane shows, as its registers say it."""

    format: int
    gamma: bool
    address: int
    stride: int
    x: int
    y: int
    width: int
    height: int

    @property
    def corrected(self) -> bool:
        """Whether the palette has a say in its colours."""
        return self.gamma or self.format == INDEXED

    def within(self, width: int, height: int) -> tuple[int, int]:
        """How much of it, from its upper left, is inside of a pipe of that size."""
        if self.format not in FORMATS:
            return 0, 0
        return (
            max(0, min(self.width, width - self.x)),
            max(0, min(self.height, height - self.y)),
        )

    def fetch(self, surface: Surface, width: int, height: int) -> bytes:
        """The bytes of what is inside of a pipe of that size; empty when nothing is."""
        columns, rows = self.within(width, height)
        if not columns or not rows:
            return b""
        return surface.read(
            self.address, self.stride * (rows - 1) + columns * FORMATS[self.format][1]
        )

    def draw(self, canvas: Pixels, fetched: bytes, palette: npt.NDArray[np.uint32]) -> None:
        """Put what was fetched for a pipe of the canvas's size onto it."""
        columns, rows = self.within(canvas.shape[1], canvas.shape[0])
        if not columns or not rows:
            return
        window = canvas[self.y : self.y + rows, self.x : self.x + columns]
        raw = linear(fetched, rows, self.stride, columns, FORMATS[self.format][1])
        _paint(window, raw, self.format, palette)
        if self.gamma and self.format != INDEXED:
            _correct(window, palette)


class Plane:
    """One primary plane."""

    def __init__(self, registers: Registers, index: int, written: Callable[[bool], None]) -> None:
        """`written` as Latch calls it."""
        at = index * PLANE_STRIDE
        letter = "AB"[index]
        names = {CNTR: "CNTR", ADDR: "ADDR", STRIDE: "STRIDE", POS: "POS", SIZE: "SIZE"}
        registers.declare(Register(o + at, f"DSP{letter}{name}") for o, name in names.items())
        control = Control(CNTR + at, ENABLE, PIPE_SHIFT)
        self.latch = Latch(registers, [o + at for o in names], ADDR + at, control, written)

    def shape(self) -> Shape:
        """What is scanned out."""
        cntr, address, stride, pos, size = self.latch.active
        return Shape(
            format=cntr >> FORMAT_SHIFT & FORMAT_MASK,
            gamma=bool(cntr & GAMMA),
            address=address,
            stride=stride,
            x=pos & 0xFFFF,
            y=pos >> 16,
            width=(size & 0xFFFF) + 1,
            height=(size >> 16) + 1,
        )


def linear(
    fetched: bytes, height: int, stride: int, width: int, bytes_each: int
) -> npt.NDArray[np.unsignedinteger]:
    """Rows of raw pixels out of `fetched`, which ends with the last row's last pixel."""
    if len(fetched) < stride * height:
        fetched = fetched.ljust(stride * height, b"\0")
    whole = np.frombuffer(fetched, dtype=np.uint8)
    if stride < width * bytes_each:
        # Nonsense, which the hardware would show as overlapping rows.
        at = np.arange(height)[:, None] * stride + np.arange(width * bytes_each)[None, :]
        rows = whole[np.minimum(at, len(whole) - 1)]
    else:
        rows = whole[: stride * height].reshape(height, stride)[:, : width * bytes_each]
    return np.ascontiguousarray(rows).view(f"<u{bytes_each}")


def _paint(
    window: Pixels,
    raw: npt.NDArray[np.unsignedinteger],
    kind: int,
    palette: npt.NDArray[np.uint32],
) -> None:
    """Raw pixels as 0x00RRGGBB; fields narrower than 8 bits repeat their upper bits."""
    if kind in (6, 7):
        np.bitwise_and(raw, np.uint32(0xFFFFFF), out=window)
        return
    if kind == INDEXED:
        np.take(palette, raw, out=window)
        return
    pixels = raw.astype(np.uint32)
    if kind in (14, 15):
        red, green, blue = pixels & 0xFF, pixels >> 8 & 0xFF, pixels >> 16 & 0xFF
    else:
        blue = pixels & 0x1F
        blue = blue << 3 | blue >> 2
        if kind == 5:
            green, red = pixels >> 5 & 0x3F, pixels >> 11 & 0x1F
            green = green << 2 | green >> 4
        else:
            green, red = pixels >> 5 & 0x1F, pixels >> 10 & 0x1F
            green = green << 3 | green >> 2
        red = red << 3 | red >> 2
    window[:] = red << 16 | green << 8 | blue


def _correct(window: Pixels, palette: npt.NDArray[np.uint32]) -> None:
    """Look each channel up in the palette, which then is a gamma table."""
    red = palette[window >> 16 & 0xFF] & 0xFF0000
    green = palette[window >> 8 & 0xFF] & 0xFF00
    window[:] = red | green | palette[window & 0xFF] & 0xFF
