"""Pipe CRC registers: a number for each frame that a pipe has scanned out.

The driver enables them and reads one result for each channel when PIPESTAT says
that it is done (intel_pipe_crc.c, i9xx_pipe_crc_irq_handler).  Equal pictures give
equal numbers, whatever their format or tiling; they are not those of real
hardware, whose polynomial is not public: 23 bits of zlib's CRC-32 instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from zlib import crc32

import numpy as np

from tools.gen3.plane import Pixels
from tools.gen3.registers import Kind, Register, Registers
from tools.gen3.scene import Palette, Scene

__all__ = ["Fetched", "PipeCrc", "channels"]

CTL, RED, GREEN, BLUE, RES1 = 0x60050, 0x60060, 0x60064, 0x60068, 0x6006C
PIPE_STRIDE = 0x1000
ENABLE = 1 << 31
# Where the CRC is taken: 0 is the pipe; the others are ports that this chip does not have.
SOURCE_MASK = 7 << 28
BITS = (1 << 23) - 1


Fetched = tuple[list[bytes], Palette]
"""What a scene shows, in memory, and the palette of its pipe."""


class PipeCrc:
    """The CRC unit of one pipe; `scene()` is what it is scanning out.

    It costs milliseconds, so that it is computed when the driver reads it: of the frame that had
    ended at the last vertical blank, in memory as it is now.
    """

    def __init__(
        self,
        registers: Registers,
        pipe: int,
        scene: Callable[[], Scene],
        fetch: Callable[[Scene], Fetched],
    ) -> None:
        self._registers = registers
        self._at = at = pipe * PIPE_STRIDE
        self._scene = scene
        self._fetch = fetch
        self._ended: Scene | None = None
        # Most frames are the same as the one before.
        self._last: tuple[object, ...] | None = None
        self._results = (0, 0, 0, 0)
        letter = "AB"[pipe]
        registers.declare([Register(CTL + at, f"PIPE_CRC_CTL_{letter}")])
        results = (RED, "RED"), (GREEN, "GREEN"), (BLUE, "BLUE"), (RES1, "RES1")
        for number, (offset, name) in enumerate(results):
            full = f"PIPE_CRC_RES_{name}_{letter}"
            registers.declare([Register(offset + at, full, kind=Kind.COMPUTED)])
            registers.on_read(offset + at, partial(self._result, number))

    @property
    def enabled(self) -> bool:
        """Whether a CRC is wanted of each frame."""
        control = self._registers[CTL + self._at]
        return bool(control & ENABLE) and not control & SOURCE_MASK

    def frame_ended(self) -> bool:
        """A frame ended, and nothing else has changed yet; whether its CRC was wanted."""
        if not self.enabled:
            return False
        self._ended = self._scene()
        return True

    def reset(self) -> None:
        """A GPU reset: no results."""
        self._ended, self._last, self._results = None, None, (0, 0, 0, 0)

    def _result(self, number: int) -> int:
        if self._ended is not None:
            scene, self._ended = self._ended, None
            fetched, palette = self._fetch(scene)
            mark = scene.fingerprint(fetched, palette)
            if mark != self._last:
                self._last, self._results = mark, channels(scene.compose(fetched, palette))
        return self._results[number]


def channels(picture: Pixels) -> tuple[int, int, int, int]:
    """The CRCs of red, green, blue, and of all of them."""
    pixels = np.ascontiguousarray(picture).astype("<u4", copy=False)
    octets = pixels.view(np.uint8).reshape(*picture.shape, 4)
    red, green, blue = (crc32(np.ascontiguousarray(octets[:, :, n]).data) & BITS for n in (2, 1, 0))
    return red, green, blue, crc32(pixels.data) & BITS
