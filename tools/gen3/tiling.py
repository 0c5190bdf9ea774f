"""The sixteen fence registers: ranges of the GTT that are stored in tiles.

On gen3 every access to such a range is detiled, the CPU's through the aperture,
the blitter's, and the display's; a client sees rows of pixels.
"""

from __future__ import annotations

from tools.gen3.registers import Register, Registers

__all__ = ["FENCES", "Fence", "Fences"]

# FENCE_REG(i) of i915_reg.h: [0-7] at 0x2000, [8-15] at 0x3000 on 945 and G33.
FENCES = tuple(0x2000 + ((i & 8) << 9) + (i & 7) * 4 for i in range(16))
VALID = 1 << 0
# I915_FENCE_START_MASK, I915_FENCE_SIZE_BITS, I830_FENCE_PITCH_SHIFT, I830_FENCE_TILING_Y_SHIFT.
START = 0x0FF0_0000
SIZE_SHIFT = 8
PITCH_SHIFT = 4
TILING_Y = 1 << 12
MIB = 20
# The rank boundary that i915 compares to tell whether channels are interleaved
# (C0DRB3_BW and C1DRB3_BW, detect_bit_6_swizzle): unequal means that bit 6 of an
# address is left alone.  Bits 31:16 of the dwords they share.
TABLE = (
    Register(0x10204, "C0DRB3_BW", reset=0x0010_0000),
    Register(0x10604, "C1DRB3_BW", reset=0x0008_0000),
    *(Register(offset, f"FENCE_REG({i})") for i, offset in enumerate(FENCES)),
)


class Fence:
    """One valid fence register, taken apart."""

    __slots__ = ("end", "pitch", "pitch_shift", "start", "y_tiled")

    def __init__(self, value: int) -> None:
        self.start = value & START
        self.end = self.start + (1 << MIB + (value >> SIZE_SHIFT & 0xF))
        self.y_tiled = bool(value & TILING_Y)
        # Tiles are 512 bytes by 8 rows (X), or on 945 and G33 128 bytes by 32 rows (Y,
        # HAS_128_BYTE_Y_TILING); the pitch is that times a power of two.
        self.pitch_shift = (7 if self.y_tiled else 9) + (value >> PITCH_SHIFT & 7)
        self.pitch = 1 << self.pitch_shift

    def place(self, address: int) -> tuple[int, int]:
        """Where in the GTT the byte at `address` is stored, and how many follow it there."""
        offset = address - self.start
        row = offset >> self.pitch_shift
        x = offset & self.pitch - 1
        if self.y_tiled:
            # Columns of 16 bytes, 32 rows high.
            tile = ((row >> 5) << self.pitch_shift - 7) + (x >> 7)
            within = (x & 0x70) << 5 | (row & 31) << 4 | x & 15
            return self.start + (tile << 12 | within), 16 - (x & 15)
        tile = ((row >> 3) << self.pitch_shift - 9) + (x >> 9)
        return self.start + (tile << 12 | (row & 7) << 9 | x & 511), 512 - (x & 511)


class Fences:
    """The fence registers, looked up by the megabyte of a GTT address."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers
        self.by_megabyte: dict[int, Fence] = {}
        registers.declare(TABLE)
        for offset in FENCES:
            registers.on_write(offset, self._written)

    def reset(self) -> None:
        """A GPU reset loses all fences."""
        for offset in FENCES:
            self._registers[offset] = 0
        self.by_megabyte = {}

    def _written(self, old: int, new: int) -> None:
        found: dict[int, Fence] = {}
        for offset in FENCES:
            value = self._registers[offset]
            if value & VALID:
                fence = Fence(value)
                for megabyte in range(fence.start >> MIB, fence.end >> MIB):
                    found.setdefault(megabyte, fence)
        self.by_megabyte = found
