"""The interrupt registers and the chip's one line (INTA).

ISR is what is so, IIR what was seen through IMR and not yet acknowledged,
and the line is up while IIR & IER is not zero.  A source that stays up is
latched again right after its acknowledge: i915 calls IIR level triggered.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.gen3.faults import Faults
from tools.gen3.registers import Kind, Register, Registers

__all__ = [
    "DISPLAY_PORT",
    "MASTER_ERROR",
    "PIPE_A_EVENT",
    "PIPE_B_EVENT",
    "USER",
    "Interrupts",
    "flip_pending",
]

# Bits of the four registers: I915_*_INTERRUPT in i915_reg.h.
USER = 1 << 1
PIPE_B_EVENT = 1 << 4
PIPE_A_EVENT = 1 << 6
MASTER_ERROR = 1 << 15
DISPLAY_PORT = 1 << 17

IER, IIR, IMR, ISR = 0x20A0, 0x20A4, 0x20A8, 0x20AC

# GEN2_* of i915_reg.h.  IMR comes up all masked, as i915's own reset leaves it.
TABLE = (
    Register(IER, "GEN2_IER"),
    Register(IIR, "GEN2_IIR", kind=Kind.W1C),
    Register(IMR, "GEN2_IMR", reset=0xFFFF_FFFF),
    Register(ISR, "GEN2_ISR", kind=Kind.READ_ONLY),
)


def flip_pending(plane: int) -> int:
    """DISPLAY_PLANE_FLIP_PENDING(plane) of i915_reg.h."""
    return 1 << (11 - plane)


class Interrupts:
    """IER, IIR, IMR and ISR; `line(up)` is called when the line changes, never otherwise."""

    def __init__(
        self, registers: Registers, line: Callable[[bool], None], faults: Faults | None = None
    ) -> None:
        self._registers = registers
        self._line = line
        self._faults = faults or Faults()
        self._faults.watch(self._settle)
        self._up = False
        self.raised = 0
        """How often the line went up."""
        registers.declare(TABLE)
        registers.on_write(IIR, self._acknowledged)
        registers.on_write(IMR, self._acknowledged)
        registers.on_write(IER, lambda old, new: self._settle())

    def pulse(self, bits: int) -> None:
        """An event: seen by IIR where IMR lets it, gone from ISR at once."""
        registers = self._registers
        seen = bits & ~registers[IMR]
        if seen:
            registers[IIR] |= seen
            self._settle()

    def level(self, bits: int, on: bool) -> None:
        """A source that stays: while `on`, each acknowledge finds it again."""
        registers = self._registers
        isr = registers[ISR]
        registers[ISR] = isr | bits if on else isr & ~bits
        if on:
            self._acknowledged(0, 0)

    def up(self) -> bool:
        """Whether the line is up."""
        return self._up

    def reset(self) -> None:
        """A GPU reset: nothing pending, all masked, the line down."""
        self._registers.restore(IER, ISR)
        self._settle()

    def _acknowledged(self, old: int, new: int) -> None:
        """IIR or IMR was written: what still stands in ISR is latched again."""
        registers = self._registers
        registers[IIR] |= registers[ISR] & ~registers[IMR]
        self._settle()

    def _settle(self) -> None:
        """Bring the line to where IIR & IER and the fault `irq` want it."""
        registers = self._registers
        up = bool(registers[IIR] & registers[IER])
        fault = self._faults.irq
        if fault != "ok":
            up = False if fault == "lost" else up or self._up
        if up != self._up:
            self._up = up
            self.raised += up
            self._line(up)
