"""A gen3 chip: its parts put together behind one PCI function.

The transport calls it for each access to configuration space and BARs, and
for what is due by the clock; it calls the transport for the interrupt line.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tools.gen3.blitter import Blitter
from tools.gen3.commands import Commands
from tools.gen3.config import Config
from tools.gen3.display import Display
from tools.gen3.errors import Errors
from tools.gen3.faults import Faults
from tools.gen3.gtt import Ggtt
from tools.gen3.interrupts import Interrupts
from tools.gen3.memory import Memory
from tools.gen3.part import Clock, Part
from tools.gen3.registers import Registers
from tools.gen3.reset import Reset
from tools.gen3.ring import Ring
from tools.gen3.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Chip", "Variant"]

MMIO, PORTS, APERTURE, PTES = range(4)
# What a GPU reset wipes besides what parts restore themselves: command streamer and
# memory interface, overlay, clocks and PLLs, pipes and planes.  Not PGTBL_CTL, the GTT,
# and the memory controller's registers that BAR0 shows at 0x10000.
LOST = (
    (0x2000, 0x201C),
    (0x2028, 0x2FFC),
    (0x3000, 0x7FFC),
    (0x30000, 0x3FFFC),
    (0x60000, 0x7FFFC),
)


class Chip:
    """One chip since power-on."""

    def __init__(
        self,
        variant: Variant,
        memory: Memory,
        line: Callable[[bool], None],
        clock: Clock = time.monotonic_ns,
    ) -> None:
        self.variant = variant
        self.faults = Faults()
        self.registers = Registers()
        self.interrupts = Interrupts(self.registers, line, self.faults)
        self.gtt = Ggtt(self.registers, memory, variant)
        self.errors = Errors(self.registers, self.interrupts)
        self.commands = Commands(self.registers, self.interrupts, Blitter(self.gtt))
        self.ring = Ring(
            self.registers,
            self.gtt,
            memory,
            self.commands,
            self.errors,
            self.faults,
            clock,
            variant,
        )
        self.reset_control = Reset(variant.reset_clears_itself, self._reset, self.faults, clock)
        self.display = Display(
            self.registers,
            self.interrupts,
            self.gtt,
            self.faults,
            clock,
            cursors=memory if variant.physical_cursor else None,
        )
        self.display.on_vblank = self.ring.vblank
        self._config = Config(variant, self.reset_control)
        self._timed: tuple[Part, ...] = (self.ring, self.reset_control, self.display)

    def config_read(self, offset: int, size: int) -> int:
        """`size` bytes (1, 2, 4) of configuration space."""
        return self._config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """As config_read."""
        self._config.write(offset, size, value)

    def read(self, bar: int, offset: int, size: int) -> int:
        """`size` bytes (1, 2, 4, 8) at `offset` of a BAR, little endian."""
        if bar == MMIO:
            return self.registers.read(offset, size)
        if bar == APERTURE:
            return int.from_bytes(self.gtt.read(offset, size), "little")
        if bar == PTES:
            return self.gtt.entry(offset, size)
        # I/O ports: i915 uses none on gen3.
        return (1 << size * 8) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """As read."""
        if bar == PTES:
            self.gtt.set_entry(offset, size, value)
        elif bar == APERTURE:
            self.gtt.write(offset, value.to_bytes(size, "little"))
        elif bar == MMIO:
            self.registers.write(offset, size, value)

    def due(self) -> int | None:
        """When `tick` is wanted next, in ns of the clock; None for not at all."""
        times = [at for part in self._timed if (at := part.due()) is not None]
        return min(times) if times else None

    def tick(self, now: int) -> None:
        """Let each part do what is due."""
        for part in self._timed:
            part.tick(now)

    def state(self) -> dict[str, object]:
        """The chip as it stands, for the control socket."""
        registers = self.registers
        return {
            "chip": self.variant.name,
            "ring": self.ring.state(),
            "irq": {
                "line": self.interrupts.up(),
                "raised": self.interrupts.raised,
                **{name: registers[at] for name, at in _SHOWN},
            },
            "resets": self.reset_control.count,
            "resets_asked": self.reset_control.asked,
            "display": self.display.state(),
            "undrawn": self.commands.undrawn,
        }

    def _reset(self) -> None:
        """A GPU reset takes effect, on all parts; the line is the last to fall."""
        self.display.reset()
        for first, last in LOST:
            self.registers.restore(first, last)
        self.gtt.fences.reset()
        self.errors.reset()
        self.ring.reset()
        self.interrupts.reset()


_SHOWN = (
    ("ier", 0x20A0),
    ("iir", 0x20A4),
    ("imr", 0x20A8),
    ("isr", 0x20AC),
    ("eir", 0x20B0),
    ("esr", 0x20B8),
    ("pgtbl_er", 0x2024),
)
