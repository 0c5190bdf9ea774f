"""A picture of what a pipe scans out, and its PNG file."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from tools.gen3.plane import Pixels

__all__ = ["Frame"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth 8, colour type 2 (RGB), and the only compression, filter and interlace there is.
LAYOUT = bytes((8, 2, 0, 0, 0))
# Fast: a dump must not hold up the beam for long.
EFFORT = 1


@dataclass(frozen=True)
class Frame:
    """Rows of pixels, top to bottom, three bytes each: red, green, blue."""

    width: int
    height: int
    rgb: bytes

    @classmethod
    def of(cls, pixels: Pixels) -> Frame:
        """From rows of 0x00RRGGBB."""
        height, width = pixels.shape
        octets = np.ascontiguousarray(pixels).astype("<u4", copy=False).view(np.uint8)
        return cls(width, height, octets.reshape(height, width, 4)[:, :, 2::-1].tobytes())

    @classmethod
    def black(cls, width: int, height: int) -> Frame:
        """What a monitor shows that gets no signal."""
        return cls(width, height, bytes(3 * width * height))

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Red, green and blue at a place."""
        at = 3 * (y * self.width + x)
        red, green, blue = self.rgb[at : at + 3]
        return red, green, blue

    def png(self) -> bytes:
        """The file (the PNG specification, ISO/IEC 15948), every row unfiltered."""
        step = 3 * self.width
        rows = (b"\0" + self.rgb[at : at + step] for at in range(0, len(self.rgb), step))
        header = struct.pack(">II", self.width, self.height) + LAYOUT
        return b"".join(
            (
                SIGNATURE,
                _chunk(b"IHDR", header),
                _chunk(b"IDAT", zlib.compress(b"".join(rows), EFFORT)),
                _chunk(b"IEND", b""),
            )
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
