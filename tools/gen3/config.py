"""The chip's PCI configuration space.

A type 0 header with four BARs and no capabilities: without one for MSI, i915
takes INTA.  GDRST, the reset register, lives here and is reset.py's.
"""

from __future__ import annotations

from tools.gen3.reset import GDRST, Reset
from tools.gen3.variants import Variant

__all__ = ["Config"]

# "Display controller, other": with the VGA class, arch/x86/kernel/early-quirks.c would look
# for stolen memory in the host bridge, which QEMU's has not got, and warn.
CLASS = 0x0380
INTEL = 0x8086
BARS = 0x10
PREFETCHABLE, IO = 0x8, 0x1
REGISTERS_BYTES = 512 * 1024
# The real I/O BAR has 8 ports.  QEMU's proxy masks the size of any BAR as of memory
# (hw/remote/proxy.c), so that the least it can have is 16.
PORTS_BYTES = 16

COMMAND, INTERRUPT_LINE = 0x04, 0x3C
# I/O, memory, bus master, INTx disable (PCI 3.0, 6.2.2).
COMMAND_WRITABLE = 0x0407


class Config:
    """256 bytes, each with the bits that a write may change."""

    def __init__(self, variant: Variant, reset: Reset) -> None:
        self._reset = reset
        self._bytes = bytearray(256)
        self._writable = bytearray(256)
        self._fix(0x00, INTEL | variant.device << 16, 0)
        self._fix(COMMAND, 0, COMMAND_WRITABLE)
        self._fix(0x08, CLASS << 16 | variant.revision, 0)
        self._bar(0, REGISTERS_BYTES, 0)
        self._bar(1, PORTS_BYTES, IO)
        self._bar(2, variant.aperture_bytes, PREFETCHABLE)
        self._bar(3, variant.gtt_bytes, 0)
        self._fix(0x2C, INTEL | variant.device << 16, 0)
        # Pin A; the line is the BIOS's note to itself.
        self._fix(INTERRUPT_LINE, 0x0100, 0xFF)
        # The chip's own words, GCFGC and the scratch ones of the BIOS among them.
        self._writable[0x40:] = bytes([0xFF]) * (256 - 0x40)

    def read(self, offset: int, size: int) -> int:
        """`size` bytes (1, 2 or 4) at `offset`, little endian."""
        if offset <= GDRST < offset + size:
            self._bytes[GDRST] = self._reset.read()
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the writable bits of `size` bytes at `offset`."""
        for place, new in enumerate(value.to_bytes(size, "little"), offset):
            if place == GDRST:
                self._reset.write(new)
                continue
            mask = self._writable[place]
            self._bytes[place] = self._bytes[place] & ~mask | new & mask

    def _fix(self, offset: int, value: int, writable: int) -> None:
        self._bytes[offset : offset + 4] = value.to_bytes(4, "little")
        self._writable[offset : offset + 4] = writable.to_bytes(4, "little")

    def _bar(self, number: int, size: int, kind: int) -> None:
        """A base address register; the bits below the size stay, whatever is written."""
        self._fix(BARS + 4 * number, kind, -size & 0xFFFF_FFFF)
