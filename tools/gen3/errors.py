"""The error registers: what the chip found wrong, and whom it told.

ESR is what is wrong now, EIR what EMR let through and nobody acknowledged yet;
while EIR is not zero the master error interrupt stands.
"""

from __future__ import annotations

from tools.gen3.interrupts import MASTER_ERROR, Interrupts
from tools.gen3.registers import Kind, Register, Registers

__all__ = ["INSTRUCTION", "PAGE_TABLE", "Errors"]

PGTBL_ER, EIR, EMR, ESR = 0x2024, 0x20B0, 0x20B4, 0x20B8
# I915_ERROR_* of i915_reg.h.
PAGE_TABLE = 1 << 4
INSTRUCTION = 1 << 0
# Bit of PGTBL_ER for a fetch of the command streamer (host GTT bits are the low ones);
# i915 prints the register and takes it apart nowhere.
STREAMER_INVALID_PTE = 1 << 4
TABLE = (
    Register(PGTBL_ER, "PGTBL_ER"),
    Register(EIR, "EIR", kind=Kind.W1C),
    Register(EMR, "EMR", reset=0xFFFF_FFFF),
    Register(ESR, "ESR", kind=Kind.READ_ONLY),
)


class Errors:
    """PGTBL_ER, EIR, EMR and ESR."""

    def __init__(self, registers: Registers, interrupts: Interrupts) -> None:
        self._registers = registers
        self._interrupts = interrupts
        registers.declare(TABLE)
        registers.on_write(PGTBL_ER, self._page_table)
        registers.on_write(EIR, lambda old, new: self._settle())
        registers.on_write(EMR, lambda old, new: self._settle())

    def instruction(self) -> None:
        """The streamer met a command it does not know; stands until reset."""
        self._registers[ESR] |= INSTRUCTION
        self._settle()

    def page_table(self) -> None:
        """The streamer met a PTE that is not valid."""
        self._registers[PGTBL_ER] |= STREAMER_INVALID_PTE
        self._page_table(0, 0)

    def reset(self) -> None:
        """A GPU reset clears all, and masks all."""
        self._registers.restore(PGTBL_ER, PGTBL_ER)
        self._registers.restore(EIR, ESR)
        self._settle()

    def _page_table(self, old: int, new: int) -> None:
        """PGTBL_ER changed; i915 writes 0 to be rid of it (intel_gt_clear_error_registers)."""
        registers = self._registers
        if registers[PGTBL_ER]:
            registers[ESR] |= PAGE_TABLE
        else:
            registers[ESR] &= ~PAGE_TABLE
        self._settle()

    def _settle(self) -> None:
        """An error that stands comes back into EIR after its acknowledge, unless masked."""
        registers = self._registers
        mask = registers[EMR]
        registers[EIR] = (registers[EIR] | registers[ESR]) & ~mask
        self._interrupts.level(MASTER_ERROR, registers[EIR] != 0)
