"""Pipes A and B: the beam's registers, PIPESTAT, and the vertical blank interrupt.

A pipe that is switched on with a usable mode moves its beam; each vertical
blank takes over armed planes, delivers the CRC of the frame that ended, sets
the status bits and raises the pipe's event while their enable bits are set.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from tools.gen3 import timing
from tools.gen3.beam import BEGIN_NS, LINE_NS, PLANE_NS, Beam
from tools.gen3.crc import PipeCrc
from tools.gen3.faults import Faults
from tools.gen3.interrupts import PIPE_A_EVENT, PIPE_B_EVENT, Interrupts
from tools.gen3.part import Clock
from tools.gen3.registers import Kind, Register, Registers

__all__ = ["Pipe"]

DSL, CONF, STAT, FRAME_HIGH, FRAME_PIXEL = 0x70000, 0x70008, 0x70024, 0x70040, 0x70044
PIPE_STRIDE = 0x1000
ENABLE = 1 << 31

# PIPESTAT (i915_reg.h): status in bits 15:0, its enable 16 bits further up.  Bit 31 is the
# status of a FIFO underrun, which has no enable and never happens here.
UNDERRUN = 1 << 31
STATUS = 0xFFFF
ENABLES = 0x7FFF_0000
VBLANK, VSYNC, CRC_DONE = 1 << 1, 1 << 9, 1 << 12


class Steps(IntEnum):
    """What of an update the driver did last (intel_pipe_update_start, intel_pipe_update_end).

    It reads the scanline and then the frame counter, writes, and reads both again.  Of all
    others who look at the frame counter none reads the scanline before.
    """

    NONE = 0
    KEEPS_CLEAR = 1
    WRITES = 2
    ENDS = 3


class Pipe:
    """One pipe; `index` 0 is A.

    `latch()` takes over armed planes; `begun()` tells that a vertical blank has begun.
    """

    def __init__(
        self,
        index: int,
        registers: Registers,
        interrupts: Interrupts,
        faults: Faults,
        clock: Clock,
        crc: PipeCrc,
        latch: Callable[[], None],
        begun: Callable[[], None],
    ) -> None:
        self.index = index
        self.vblanks = 0
        """How many there have been since the model started."""
        self._registers = registers
        self._interrupts = interrupts
        self._faults = faults
        self._clock = clock
        self._crc = crc
        self._latch = latch
        self._begun = begun
        self._event = (PIPE_A_EVENT, PIPE_B_EVENT)[index]
        self._pending = False
        self._steps = Steps.NONE
        self._step_ns = 0
        self._beam = Beam()
        self._at = at = index * PIPE_STRIDE
        letter = "AB"[index]
        registers.declare(timing.table(index))
        registers.declare(
            [
                Register(DSL + at, f"PIPE{letter}DSL", kind=Kind.COMPUTED),
                Register(CONF + at, f"PIPE{letter}CONF"),
                Register(STAT + at, f"PIPE{letter}STAT"),
                Register(FRAME_HIGH + at, f"PIPE{letter}FRAMEHIGH", kind=Kind.COMPUTED),
                Register(FRAME_PIXEL + at, f"PIPE{letter}FRAMEPIXEL", kind=Kind.COMPUTED),
            ]
        )
        registers.on_read(DSL + at, self._read_line)
        registers.on_read(FRAME_HIGH + at, self._read_frame)
        registers.on_read(FRAME_PIXEL + at, self._read_pixel)
        registers.on_read(STAT + at, self._read_status)
        registers.on_write(STAT + at, self._write_status)
        registers.on_write(CONF + at, self._switch)
        for offset in timing.offsets(index):
            registers.on_write(offset, self._retime)

    @property
    def enabled(self) -> bool:
        """Whether the driver has switched it on."""
        return bool(self._registers[CONF + self._at] & ENABLE)

    @property
    def running(self) -> bool:
        """Whether its beam is on."""
        return self._beam.timing is not None

    @property
    def timing(self) -> timing.Timing | None:
        """The mode that the beam runs with; None while it is off."""
        return self._beam.timing

    def line(self) -> int:
        """The scanline counter, now."""
        now = self._settle()
        return self._beam.line(now)

    def update(self, ns: int) -> None:
        """The driver writes what the next vertical blank takes over; its next step takes less
        than `ns`."""
        now = self._settle()
        self._step_ns = max(self._step_ns, ns) if self._steps is Steps.WRITES else ns
        self._steps = Steps.WRITES
        self.vblanks -= self._beam.update(now, ns)

    def settle(self) -> None:
        """Account for vertical blanks that have passed."""
        self._settle()

    def faults_changed(self) -> None:
        """The fault switches were set."""
        now = self._settle()
        self._beam.freeze(self._faults.vblank_frozen == "on", now)
        self._beam.keep_time(self._faults.vblank_strict == "on")

    def due(self) -> int | None:
        """When the next vertical blank begins; None while the beam is off."""
        return self._beam.next_vblank()

    def tick(self, now: int) -> None:
        """Account for vertical blanks that have passed until `now`."""
        self._account(now)

    def reset(self) -> None:
        """A GPU reset took the registers; the beam goes with them."""
        self._beam.forget()
        self._crc.reset()
        self._raise()

    # -- registers ---------------------------------------------------------------------

    def _read_line(self) -> int:
        now = self._settle()
        if self._steps in (Steps.NONE, Steps.WRITES):
            self._steps = Steps(self._steps + 1)
        self._go_on(now)
        return self._beam.line(now)

    def _read_frame(self) -> int:
        now = self._settle()
        if self._steps is Steps.KEEPS_CLEAR:
            self._beam.expect(now, BEGIN_NS)
            self._steps = Steps.NONE
        else:
            self._go_on(now)
        return self._beam.position(now)[0] >> 8 & 0xFFFF

    def _read_pixel(self) -> int:
        now = self._settle()
        ends = self._steps is Steps.ENDS
        if ends:
            self._steps = Steps.NONE
        self.vblanks -= self._beam.looked(now, ends)
        frame, pixel = self._beam.position(now)
        return (frame & 0xFF) << 24 | pixel & 0xFF_FFFF

    def _read_status(self) -> int:
        self._settle()
        return self._registers[STAT + self._at]

    def _write_status(self, old: int, new: int) -> None:
        # What happened before this write is acknowledged by it, too.
        self._registers[STAT + self._at] = old
        self._settle()
        old = self._registers[STAT + self._at]
        self._registers[STAT + self._at] = new & ENABLES | old & (STATUS | UNDERRUN) & ~new
        self._raise()

    def _switch(self, old: int, new: int) -> None:
        if not (old ^ new) & ENABLE:
            return
        if new & ENABLE:
            if self._faults.pipe_dead != "on":
                self._start()
        elif self.running:
            self._beam.stop(self._settle())
            self._latch()

    def _retime(self, old: int, new: int) -> None:
        """The mode or its clock was written; a running beam begins a frame anew."""
        if old == new or not self.enabled:
            return
        if self.running:
            self._beam.stop(self._settle())
            self._start()
        elif self._faults.pipe_dead != "on":
            self._start()

    def _start(self) -> None:
        mode = timing.programmed(self._registers, self.index)
        if mode is not None:
            self._latch()
            self._beam.start(mode, self._clock())

    def _go_on(self, now: int) -> None:
        """The end of an update takes more than one step.  That of a cursor alone has none, and
        what looks like it is the next one's beginning."""
        if self._steps is Steps.ENDS and self._beam.updating(now):
            self._beam.expect(now, PLANE_NS if self._step_ns >= PLANE_NS else LINE_NS)

    # -- time --------------------------------------------------------------------------

    def _settle(self) -> int:
        now = self._clock()
        self._account(now)
        return now

    def _account(self, now: int) -> None:
        begun = self._beam.settle(now)
        if not begun:
            return
        self.vblanks += begun
        status = VBLANK | VSYNC
        if self._crc.frame_ended():
            status |= CRC_DONE
        self._latch()
        self._registers[STAT + self._at] |= status
        self._raise()
        self._begun()

    def _raise(self) -> None:
        """Bring the pipe's interrupt source to where its status wants it."""
        stat = self._registers[STAT + self._at]
        pending = bool(stat & STATUS & stat >> 16)
        if pending != self._pending:
            self._pending = pending
            self._interrupts.level(self._event, pending)
