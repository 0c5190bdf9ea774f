"""A display engine without a chip around it: its registers, a clock to turn, memory to scan out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tools.gen3.display import Display
from tools.gen3.faults import Faults
from tools.gen3.frame import Frame
from tools.gen3.interrupts import IER, IIR, IMR, ISR, Interrupts
from tools.gen3.registers import Registers
from tools.gen3.timing import REFERENCE_HZ

__all__ = ["MS", "VGA", "XGA", "Mode", "Screen", "dividers"]

MS = 1_000_000

VCO, DAC = 1 << 31, 1 << 26
ON = 1 << 31
XRGB8888 = 6


@dataclass(frozen=True)
class Mode:
    """A VESA mode: active, sync start, sync end and total of both directions."""

    clock_hz: int
    horizontal: tuple[int, int, int, int]
    vertical: tuple[int, int, int, int]

    @property
    def width(self) -> int:
        return self.horizontal[0]

    @property
    def height(self) -> int:
        return self.vertical[0]


XGA = Mode(65_000_000, (1024, 1048, 1184, 1344), (768, 771, 777, 806))
VGA = Mode(25_175_000, (640, 656, 752, 800), (480, 490, 492, 525))


@cache
def dividers(clock_hz: int) -> tuple[int, int]:
    """DPLL and FP for the clock, to 0.5 %, within the limits of intel_limits_i9xx_sdvo."""
    for n in range(1, 7):
        for m1 in range(8, 19):
            for m2 in range(3, 8):
                vco = REFERENCE_HZ * (5 * (m1 + 2) + m2 + 2) // (n + 2)
                for p1 in range(1, 9):
                    off = abs(vco // (p1 * 10) - clock_hz)
                    if 1_400_000_000 <= vco <= 2_800_000_000 and off * 200 < clock_hz:
                        return VCO | DAC | 1 << (p1 - 1) << 16, n << 16 | m1 << 8 | m2
    raise AssertionError(f"no dividers for {clock_hz} Hz")


class Screen:
    """The bench: `now` is the clock, `memory` what graphics addresses reach."""

    def __init__(self, size: int = 8 << 20) -> None:
        self.now = 1_000 * MS
        self.memory = bytearray(size)
        self.line: list[bool] = []
        self.registers = Registers()
        self.faults = Faults()
        self.interrupts = Interrupts(self.registers, self.line.append, self.faults)
        self.display = Display(self.registers, self.interrupts, self, self.faults, lambda: self.now)
        self.write(IER, 0xFFFF_FFFF)
        self.write(IMR, 0)

    # -- what the GTT would do -----------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.memory[address : address + length])

    # -- what the driver does ------------------------------------------------------------

    def get(self, offset: int) -> int:
        return self.registers.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.registers.write(offset, 4, value)

    def program(self, mode: Mode, pipe: int = 0) -> None:
        """Timings, clock and source size, as intel_set_transcoder_timings and friends do."""
        at = pipe * 0x1000
        for offset, (active, start, end, total) in (
            (0x60000, mode.horizontal),
            (0x6000C, mode.vertical),
        ):
            self.write(offset + at, (total - 1) << 16 | active - 1)
            self.write(offset + at + 4, (total - 1) << 16 | active - 1)
            self.write(offset + at + 8, (end - 1) << 16 | start - 1)
        self.write(0x6001C + at, (mode.width - 1) << 16 | mode.height - 1)
        dpll, fp = dividers(mode.clock_hz)
        self.write(0x6040 + 8 * pipe, fp)
        self.write(0x6014 + 4 * pipe, dpll)

    def start(self, mode: Mode = VGA, pipe: int = 0) -> None:
        """Program a mode and switch the pipe on."""
        self.program(mode, pipe)
        self.write(0x70008 + pipe * 0x1000, ON)

    def stop(self, pipe: int = 0) -> None:
        self.write(0x70008 + pipe * 0x1000, 0)

    def plane(
        self,
        address: int,
        width: int = VGA.width,
        height: int = VGA.height,
        *,
        kind: int = XRGB8888,
        stride: int | None = None,
        at: tuple[int, int] = (0, 0),
        pipe: int = 0,
        plane: int = 0,
        gamma: bool = False,
    ) -> None:
        """i9xx_plane_update_noarm and i9xx_plane_update_arm."""
        base = 0x70180 + plane * 0x1000
        each = {2: 1, 5: 2, 3: 2, 4: 2}.get(kind, 4)
        self.write(base + 8, width * each if stride is None else stride)
        self.write(base + 0xC, at[1] << 16 | at[0])
        self.write(base + 0x10, (height - 1) << 16 | width - 1)
        self.write(base, ON | gamma << 30 | kind << 26 | pipe << 24)
        self.write(base + 4, address)

    def flip(self, address: int, plane: int = 0) -> None:
        self.write(0x70184 + plane * 0x1000, address)

    # -- what a test wants -----------------------------------------------------------------

    def paint(self, address: int, pixel: int, count: int = VGA.width * VGA.height) -> None:
        """`count` pixels of XRGB8888, all the same."""
        data = np.full(count, pixel, dtype="<u4").tobytes()
        self.memory[address : address + len(data)] = data

    def wait(self, ns: int) -> None:
        """Time passes, and nobody touches a register or ticks."""
        self.now += ns

    def run(self, ns: int) -> None:
        """Time passes as the chip's loop lets it pass."""
        end = self.now + ns
        while (due := self.display.due()) is not None and due <= end:
            self.now = max(self.now, due)
            self.display.tick(self.now)
        self.now = end

    def shown(self, pipe: int = 0) -> Frame:
        """What is scanned out now; it must be on."""
        frame = self.display.frame(pipe)
        assert frame is not None
        return frame

    def isr(self) -> int:
        return self.registers[ISR]

    def iir(self) -> int:
        return self.registers[IIR]
