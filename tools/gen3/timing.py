"""The mode that a pipe is programmed with, read back from its registers.

Totals and blanking from the transcoder's registers, the dot clock from the
DPLL's dividers: together they say how long a frame lasts and when its vertical
blank begins.  Sources: i915_reg.h and intel_dpll.c of i915.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.gen3.registers import Register, Registers

__all__ = ["REFERENCE_HZ", "Timing", "dot_clock", "offsets", "programmed", "table"]

REFERENCE_HZ = 96_000_000
"""What the DPLLs of gen3 divide (i9xx_pll_refclk)."""

HTOTAL, HBLANK, HSYNC, VTOTAL, VBLANK, VSYNC, PIPESRC = (
    0x60000,
    0x60004,
    0x60008,
    0x6000C,
    0x60010,
    0x60014,
    0x6001C,
)
TRANSCODER_STRIDE = 0x1000
DPLL, DPLL_STRIDE = 0x6014, 4
FP, FP_STRIDE = 0x6040, 8

VCO_ENABLE = 1 << 31
MODE_MASK, MODE_DAC_SERIAL = 3 << 26, 1 << 26
P2_IS_5 = 1 << 24
P1_SHIFT, P1_BITS = 16, 8
SELECT_FP1 = 1 << 8


@dataclass(frozen=True)
class Timing:
    """A mode as the beam sees it; pixels and lines count from the first visible one."""

    width: int
    height: int
    htotal: int
    hsync_start: int
    vtotal: int
    vblank_start: int
    clock_hz: int

    @property
    def frame(self) -> int:
        """Pixels of one frame, blanking included."""
        return self.htotal * self.vtotal

    @property
    def line_step(self) -> int:
        """Pixels by which the scanline counter is ahead: it counts at the start of hsync."""
        return self.htotal - self.hsync_start

    @property
    def vblank(self) -> int:
        """The pixel at which the vertical blank begins: at the hsync of the last visible line
        (the drawing above i915_get_vblank_counter in i915's intel_vblank.c)."""
        return self.vblank_start * self.htotal - self.line_step

    @property
    def refresh_hz(self) -> float:
        """Frames a second."""
        return self.clock_hz / self.frame


def table(pipe: int) -> list[Register]:
    """The registers that this module reads; all plain storage."""
    letter = "AB"[pipe]
    names = {
        HTOTAL: "TRANS_HTOTAL",
        HBLANK: "TRANS_HBLANK",
        HSYNC: "TRANS_HSYNC",
        VTOTAL: "TRANS_VTOTAL",
        VBLANK: "TRANS_VBLANK",
        VSYNC: "TRANS_VSYNC",
        PIPESRC: "PIPESRC",
    }
    rows = [
        Register(offset + pipe * TRANSCODER_STRIDE, f"{name}_{letter}")
        for offset, name in names.items()
    ]
    rows.append(Register(DPLL + pipe * DPLL_STRIDE, f"DPLL_{letter}"))
    rows += [Register(FP + pipe * FP_STRIDE + 4 * n, f"FP{letter}{n}") for n in range(2)]
    return rows


def offsets(pipe: int) -> list[int]:
    """Where a write may change the pipe's timing."""
    return [row.offset for row in table(pipe)]


def dot_clock(dpll: int, fp: int) -> int:
    """Hz out of a DPLL in its analog mode; 0 when it is off (i9xx_calc_dpll_params)."""
    if not dpll & VCO_ENABLE or dpll & MODE_MASK != MODE_DAC_SERIAL:
        return 0
    p1 = dpll >> P1_SHIFT & (1 << P1_BITS) - 1
    if not p1:
        return 0
    # One bit of eight is set; its number, from 1, is the divider.
    p = (p1 & -p1).bit_length() * (5 if dpll & P2_IS_5 else 10)
    n, m1, m2 = fp >> 16 & 0x3F, fp >> 8 & 0x3F, fp & 0x3F
    m = 5 * (m1 + 2) + (m2 + 2)
    return REFERENCE_HZ * m // ((n + 2) * p)


def programmed(registers: Registers, pipe: int) -> Timing | None:
    """The pipe's timing; None while it makes no sense: no clock, or no blanking."""
    at = pipe * TRANSCODER_STRIDE
    dpll = registers[DPLL + pipe * DPLL_STRIDE]
    fp = registers[FP + pipe * FP_STRIDE + (4 if dpll & SELECT_FP1 else 0)]
    # Every field holds its number less one.
    horizontal, vertical = registers[HTOTAL + at], registers[VTOTAL + at]
    timing = Timing(
        width=(horizontal & 0xFFFF) + 1,
        height=(vertical & 0xFFFF) + 1,
        htotal=(horizontal >> 16) + 1,
        hsync_start=(registers[HSYNC + at] & 0xFFFF) + 1,
        vtotal=(vertical >> 16) + 1,
        vblank_start=(registers[VBLANK + at] & 0xFFFF) + 1,
        clock_hz=dot_clock(dpll, fp),
    )
    sane = (
        timing.clock_hz
        and timing.width <= timing.hsync_start < timing.htotal
        and timing.height <= timing.vblank_start < timing.vtotal
    )
    return timing if sane else None
