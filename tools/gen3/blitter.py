"""The 2D engine: filled and copied rectangles.

Surfaces are GTT addresses, tiled ones being under a fence; every raster
operation is computed, clipping and patterns are not.  A blit is done row by
row, as its caller goes on asking for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.gen3.gtt import Ggtt

__all__ = ["Blitter"]

# Opcodes, BR00 bits 28:22: XY_COLOR_BLT_CMD and its like in gt/intel_gpu_commands.h.
COLOR_BLT, SRC_COPY_BLT, XY_COLOR_BLT, XY_SRC_COPY_BLT = 0x40, 0x43, 0x50, 0x53
# BLT_WRITE_RGB, BLT_WRITE_A.
WRITE_RGB, WRITE_ALPHA = 1 << 20, 2 << 20
# Bytes of a pixel by BR13 bits 25:24: BLT_DEPTH_8, _16_565, _16_1555, _32.
PIXEL = (1, 2, 2, 4)
# ROP3 codes of "copy the pattern" and "copy the source".
PATTERN_COPY, SOURCE_COPY = 0xF0, 0xCC
# What work costs, in packets of the streamer's budget (about 2.5 us): a piece of a row that is
# read or written, and a KiB under any other raster operation.
PIECE, RASTER_KIB = 2, 4


class Blitter:
    """Executes the 2D commands that i915, its tests and 2D clients use."""

    def __init__(self, gtt: Ggtt) -> None:
        self._gtt = gtt
        self.lengths = {COLOR_BLT: 5, SRC_COPY_BLT: 6, XY_COLOR_BLT: 6, XY_SRC_COPY_BLT: 8}
        """Dwords of each command that is executed, by opcode."""

    def execute(self, words: Sequence[int]) -> Iterator[int]:
        """The command in `words`, complete and one of `lengths`, as its rows: to ask for one is to
        do it, and gives what it cost, in packets.  `words` are read now."""
        opcode = words[0] >> 22 & 0x7F
        br13 = words[1]
        pixel = PIXEL[br13 >> 24 & 3]
        if opcode == COLOR_BLT:
            height, width = words[2] >> 16, words[2] & 0xFFFF
            return self._fill(words[0], br13, words[3], width, height, words[4], pixel)
        if opcode == SRC_COPY_BLT:
            height, width = words[2] >> 16, words[2] & 0xFFFF
            pitch = _signed(words[4])
            return self._copy(words[0], br13, words[3], words[5], pitch, width, height, pixel)
        left, top = _signed(words[2]), _signed(words[2] >> 16)
        width = (_signed(words[3]) - left) * pixel
        height = _signed(words[3] >> 16) - top
        to = words[4] + top * _signed(br13) + left * pixel
        if opcode == XY_COLOR_BLT:
            return self._fill(words[0], br13, to, width, height, words[5], pixel)
        pitch = _signed(words[6])
        source = words[7] + _signed(words[5] >> 16) * pitch + _signed(words[5]) * pixel
        return self._copy(words[0], br13, to, source, pitch, width, height, pixel)

    def _fill(
        self, br00: int, br13: int, to: int, width: int, height: int, color: int, pixel: int
    ) -> Iterator[int]:
        """`width` bytes by `height` rows at `to`, of the one `color`."""
        if width <= 0 or height <= 0:
            return
        pattern = (color & (1 << pixel * 8) - 1).to_bytes(pixel, "little") * (width // pixel)
        for row in range(height):
            yield self._row(br00, br13, to + row * _signed(br13), pattern, None, pixel)

    def _copy(
        self,
        br00: int,
        br13: int,
        to: int,
        source: int,
        pitch: int,
        width: int,
        height: int,
        pixel: int,
    ) -> Iterator[int]:
        """`width` bytes by `height` rows from `source` to `to`; they may overlap."""
        if width <= 0 or height <= 0:
            return
        rows = range(height) if to <= source else range(height - 1, -1, -1)
        for row in rows:
            before = self._gtt.pieces
            data = self._gtt.read(source + row * pitch, width)
            fetched = PIECE * (self._gtt.pieces - before)
            yield fetched + self._row(br00, br13, to + row * _signed(br13), None, data, pixel)

    def _row(
        self,
        br00: int,
        br13: int,
        to: int,
        pattern: bytes | None,
        source: bytes | None,
        pixel: int,
    ) -> int:
        """Write one row: the raster operation, under the channel enables.  Returns the cost."""
        before, extra = self._gtt.pieces, 1
        code = br13 >> 16 & 0xFF
        enabled = _channels(br00, pixel)
        data = pattern if code == PATTERN_COPY else source if code == SOURCE_COPY else None
        if data is None or enabled is not None:
            length = len(pattern or source or b"")
            under = self._gtt.read(to, length)
            data = data if data is not None else _raster(code, pattern, source, under)
            extra += RASTER_KIB * (length >> 10)
            if enabled is not None:
                data = _masked(data, under, enabled)
        self._gtt.write(to, data)
        return PIECE * (self._gtt.pieces - before) + extra


def _signed(value: int) -> int:
    """The low 16 bits, as coordinates and pitches are written."""
    value &= 0xFFFF
    return value - 0x10000 if value & 0x8000 else value


def _channels(br00: int, pixel: int) -> bytes | None:
    """The bytes of a pixel that are written, as a mask; None for all."""
    if pixel != 4 or br00 & (WRITE_RGB | WRITE_ALPHA) == WRITE_RGB | WRITE_ALPHA:
        return None
    rgb = 0xFF if br00 & WRITE_RGB else 0
    return bytes((rgb, rgb, rgb, 0xFF if br00 & WRITE_ALPHA else 0))


def _masked(data: bytes, under: bytes, pixel: bytes) -> bytes:
    """`data` where the mask `pixel` is set, `under` elsewhere."""
    length = len(data)
    mask = int.from_bytes(pixel * (length // 4), "little")
    over = int.from_bytes(data, "little") & mask
    return (over | int.from_bytes(under, "little") & ~mask).to_bytes(length, "little")


def _raster(code: int, pattern: bytes | None, source: bytes | None, under: bytes) -> bytes:
    """ROP3: bit 4p + 2s + d of `code` is the result for those bits of the three operands."""
    length = len(under)
    ones = (1 << length * 8) - 1
    p, s, d = (int.from_bytes(operand or b"", "little") for operand in (pattern, source, under))
    result = 0
    for bit in range(8):
        if code >> bit & 1:
            term = p if bit & 4 else ~p
            term &= s if bit & 2 else ~s
            term &= d if bit & 1 else ~d
            result |= term & ones
    return result.to_bytes(length, "little")
