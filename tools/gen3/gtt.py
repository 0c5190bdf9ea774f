"""The global GTT: graphics addresses to guest RAM, through the PTEs of BAR3.

The CPU reaches it through the aperture (BAR2), the command streamer, the
blitter and the display by address; ranges under a fence are detiled for all.
"""

from __future__ import annotations

from array import array

from tools.gen3.memory import Memory
from tools.gen3.registers import Register, Registers
from tools.gen3.tiling import MIB, Fences
from tools.gen3.variants import Variant

__all__ = ["PAGE", "Ggtt"]

PAGE = 4096
VALID = 1 << 0
# I810_PGETBL_CTL of intel-agp.h.  On gen3 the table's address is in BAR3, so that of the
# register only the size, which is fixed, and the enable bit are left.
PGTBL_CTL = 0x2020
TABLE = (Register(PGTBL_CTL, "PGTBL_CTL", writable=0xFFFF_F001),)


class Ggtt:
    """The page table and what it maps."""

    def __init__(self, registers: Registers, memory: Memory, variant: Variant) -> None:
        registers.declare(TABLE)
        registers[PGTBL_CTL] = variant.pgtbl_ctl
        self._memory = memory
        self._wide = variant.wide_ptes
        self.fences = Fences(registers)
        self.ptes = array("I", bytes(variant.gtt_bytes))
        """The entries as the driver wrote them."""
        self.pieces = 0
        """How many there were of what reads and writes fall into; their cost goes by that."""

    def entry(self, offset: int, size: int) -> int:
        """What BAR3 reads."""
        if size == 4:
            return self.ptes[offset >> 2]
        value = int.from_bytes(
            self.ptes[offset >> 2 : (offset + size + 3) >> 2].tobytes(), "little"
        )
        return value >> (offset & 3) * 8 & (1 << size * 8) - 1

    def set_entry(self, offset: int, size: int, value: int) -> None:
        """What BAR3 is written; i915 writes dwords only."""
        if size == 4:
            self.ptes[offset >> 2] = value
        elif size == 8:
            self.ptes[offset >> 2] = value & 0xFFFF_FFFF
            self.ptes[(offset >> 2) + 1] = value >> 32

    def translate(self, page: int) -> int | None:
        """The physical address of page number `page` of the GTT; None without a valid PTE."""
        # Blits with wild coordinates reach beyond both ends.
        if not 0 <= page < len(self.ptes):
            return None
        pte = self.ptes[page]
        if not pte & VALID:
            return None
        physical = pte & 0xFFFF_F000
        return physical | (pte & 0xF0) << 28 if self._wide else physical

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at the GTT address `address`; zeros where no page is mapped."""
        pieces = []
        while length > 0:
            at, run = self._run(address, length)
            physical = self.translate(at >> 12)
            if physical is None:
                pieces.append(bytes(run))
            else:
                pieces.append(self._memory.read(physical | at & 0xFFF, run))
            address += run
            length -= run
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Store `data` at the GTT address `address`; lost where no page is mapped."""
        done, length = 0, len(data)
        while done < length:
            at, run = self._run(address + done, length - done)
            physical = self.translate(at >> 12)
            if physical is not None:
                self._memory.write(physical | at & 0xFFF, data[done : done + run])
            done += run

    def _run(self, address: int, length: int) -> tuple[int, int]:
        """Where the byte at `address` is, and how many of `length` lie in one piece there."""
        self.pieces += 1
        fence = self.fences.by_megabyte.get(address >> MIB)
        if fence is not None:
            address, run = fence.place(address)
            length = min(length, run)
        return address, min(length, PAGE - (address & 0xFFF))
