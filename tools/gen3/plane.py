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

__all__ = ["FORMATS", "Pixels", "Plane", "Surface", "linear"]

Pixels = npt.NDArray[np.uint32]
"""Rows of 0x00RRGGBB."""

CNTR, ADDR, STRIDE, POS, SIZE = 0x70180, 0x70184, 0x70188, 0x7018C, 0x70190
PLANE_STRIDE = 0x1000
# Bits of DSPCNTR (i9xx_plane_regs.h).
ENABLE, GAMMA = 1 << 31, 1 << 30
FORMAT_SHIFT, FORMAT_MASK = 26, 0xF
PIPE_SHIFT = 24

# DISP_FORMAT: name, bytes of a pixel.  What i915 offers on gen3 (i8xx_plane_formats), and the
# other order of 8:8:8.
FORMATS = {
    2: ("C8", 1),
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


class Plane:
    """One primary plane."""

    def __init__(self, registers: Registers, index: int, written: Callable[[], None]) -> None:
        """`written` is called before each write to one of the plane's registers takes effect."""
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

    def draw(self, canvas: Pixels, surface: Surface, palette: npt.NDArray[np.uint32]) -> None:
        """Put the plane's pixels onto what its pipe shows."""
        shape = self.shape()
        if shape.format not in FORMATS:
            return
        height = max(0, min(shape.height, canvas.shape[0] - shape.y))
        width = max(0, min(shape.width, canvas.shape[1] - shape.x))
        if not height or not width:
            return
        bytes_each = FORMATS[shape.format][1]
        length = shape.stride * (height - 1) + width * bytes_each
        fetched = surface.read(shape.address, length)
        rows = linear(fetched, height, shape.stride, width, bytes_each)
        window = canvas[shape.y : shape.y + height, shape.x : shape.x + width]
        window[:] = _colours(rows, shape.format, palette)
        if shape.gamma and shape.format != 2:
            _correct(window, palette)


def linear(
    fetched: bytes, height: int, stride: int, width: int, bytes_each: int
) -> npt.NDArray[np.unsignedinteger]:
    """Rows of raw pixels out of `fetched`, which ends with the last row's last pixel."""
    whole = np.frombuffer(fetched.ljust(max(stride, 1) * height, b"\0"), dtype=np.uint8)
    if stride < width * bytes_each:
        # Nonsense, which the hardware would show as overlapping rows.
        at = np.arange(height)[:, None] * stride + np.arange(width * bytes_each)[None, :]
        rows = whole[np.minimum(at, len(whole) - 1)]
    else:
        rows = whole[: stride * height].reshape(height, stride)[:, : width * bytes_each]
    return np.ascontiguousarray(rows).view(f"<u{bytes_each}")


def _colours(
    raw: npt.NDArray[np.unsignedinteger], kind: int, palette: npt.NDArray[np.uint32]
) -> Pixels:
    """0x00RRGGBB of raw pixels; fields narrower than 8 bits repeat their upper bits."""
    if kind == 2:
        return np.take(palette, raw)
    pixels = raw.astype(np.uint32)
    if kind in (6, 7):
        return np.bitwise_and(pixels, 0xFFFFFF, dtype=np.uint32)
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
    return np.asarray(red << 16 | green << 8 | blue, dtype=np.uint32)


def _correct(window: Pixels, palette: npt.NDArray[np.uint32]) -> None:
    """Look each channel up in the palette, which then is a gamma table."""
    red = palette[window >> 16 & 0xFF] & 0xFF0000
    green = palette[window >> 8 & 0xFF] & 0xFF00
    window[:] = red | green | palette[window & 0xFF] & 0xFF
