"""The analog output and the monitor on it: force detect, hotplug, load detect.

Plugging the monitor in or out raises the display port interrupt when the
driver has asked for it.  Sources: i915_reg.h, intel_crt.c and
intel_hotplug_irq.c of i915.
"""

from __future__ import annotations

from tools.gen3.interrupts import DISPLAY_PORT, Interrupts
from tools.gen3.registers import Kind, Register, Registers

__all__ = ["Crt"]

ADPA, HOTPLUG_EN, HOTPLUG_STAT = 0x61100, 0x61110, 0x61114
SDVOB, SDVOC, SDVO_DETECTED = 0x61140, 0x61160, 1 << 2
# The dword of VGA's input status 0, whose byte 0x3c2 i915 reads through BAR0.
VGA, SENSE = 0x3C0, 1 << (16 + 4)

DAC_ENABLE, PIPE_B = 1 << 31, 1 << 30
# PORT_HOTPLUG_EN.
INTERRUPT_EN, FORCE_DETECT = 1 << 9, 1 << 3
# PORT_HOTPLUG_STAT: an event of this connector, and what is connected.
CRT_EVENT = 1 << 11
COLOUR_MONITOR = 3 << 8
# Events of any connector: HOTPLUG_INT_STATUS_I915 of i915_reg.h.
EVENTS = CRT_EVENT | 1 << 7 | 1 << 6 | 0x7E_0000


class Crt:
    """The VGA connector; a monitor is plugged in at first."""

    def __init__(self, registers: Registers, interrupts: Interrupts) -> None:
        self._registers = registers
        self._interrupts = interrupts
        self._pending = False
        self.plugged = True
        registers.declare(
            [
                Register(VGA, "VGA_ST00", kind=Kind.COMPUTED),
                Register(ADPA, "ADPA"),
                Register(HOTPLUG_EN, "PORT_HOTPLUG_EN", writable=~FORCE_DETECT & 0xFFFF_FFFF),
                Register(HOTPLUG_STAT, "PORT_HOTPLUG_STAT", kind=Kind.W1C, writable=EVENTS),
                # No SDVO device answers: the detection bit stays 0 whatever is written.
                Register(SDVOB, "GEN3_SDVOB", writable=~SDVO_DETECTED & 0xFFFF_FFFF),
                Register(SDVOC, "GEN3_SDVOC", writable=~SDVO_DETECTED & 0xFFFF_FFFF),
            ]
        )
        registers.on_read(VGA, lambda: SENSE if self.plugged else 0)
        registers.on_write(HOTPLUG_EN, self._detect)
        registers.on_write(HOTPLUG_STAT, lambda old, new: self._raise())

    def pipe(self) -> int | None:
        """Which pipe drives the connector; None while its DAC is off."""
        adpa = self._registers[ADPA]
        return (1 if adpa & PIPE_B else 0) if adpa & DAC_ENABLE else None

    def plug(self, plugged: bool) -> None:
        """Plug the monitor in or pull it out."""
        if plugged == self.plugged:
            return
        self.plugged = plugged
        if self._registers[HOTPLUG_EN] & INTERRUPT_EN:
            self._sample()
            self._registers[HOTPLUG_STAT] |= CRT_EVENT
            self._raise()

    def reset(self) -> None:
        """A GPU reset took the registers, and with them what was pending."""
        self._raise()

    def _detect(self, old: int, new: int) -> None:
        # Force detect clears itself, at once, and leaves what it saw in the status register.
        self._sample()

    def _sample(self) -> None:
        stat = self._registers[HOTPLUG_STAT] & ~COLOUR_MONITOR
        self._registers[HOTPLUG_STAT] = stat | (COLOUR_MONITOR if self.plugged else 0)

    def _raise(self) -> None:
        pending = bool(self._registers[HOTPLUG_STAT] & EVENTS)
        if pending != self._pending:
            self._pending = pending
            self._interrupts.level(DISPLAY_PORT, pending)
