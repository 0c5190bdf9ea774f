"""The display engine: two pipes with plane and cursor, and the one analog connector.

Puts the parts together, composes what a pipe scans out, and is what the chip
resets, asks for its next due time, and lets tick.  A GPU reset of gen3 takes
all of it: afterwards every display register is as it came out of the factory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from tools.gen3.beam import CURSOR_NS, PLANE_NS
from tools.gen3.crc import Fetched, PipeCrc
from tools.gen3.crt import Crt
from tools.gen3.cursor import Cursor
from tools.gen3.faults import Faults
from tools.gen3.frame import Frame
from tools.gen3.gmbus import Gmbus
from tools.gen3.interrupts import Interrupts
from tools.gen3.part import Clock
from tools.gen3.pipe import Pipe
from tools.gen3.plane import FORMATS, Plane, Surface
from tools.gen3.registers import Registers
from tools.gen3.scene import Scene

__all__ = ["PIPES", "Display"]

PIPES = 2
PIPESRC, TRANSCODER_STRIDE = 0x6001C, 0x1000
# Of each half, width and height less one, the bits there are: no mode of gen3 is larger than
# 4096 by 4096 (intel_mode_config_init of i915).
PIPESRC_MASK = 0xFFF
PALETTE, PALETTE_STRIDE, COLOURS = 0xA000, 0x800, 256
# Offsets, both ends included, of what a reset wipes: GPIO and GMBUS; DPLLs and display clocks;
# palettes; transcoders, ports, pipes, planes and cursors.
WIPED = ((0x5000, 0x51FC), (0x6000, 0x6FFC), (0xA000, 0xAFFC), (0x60000, 0x7FFFC))
NO_SIGNAL = (640, 480)


class Display:
    """A Part of the chip."""

    def __init__(
        self,
        registers: Registers,
        interrupts: Interrupts,
        gtt: Surface,
        faults: Faults,
        clock: Clock,
        *,
        cursors: Surface | None = None,
    ) -> None:
        """Planes are fetched through `gtt`, and cursors, too, unless `cursors` says otherwise:
        945G takes a physical address there (cursor_needs_physical of i915)."""
        self.on_vblank: Callable[[int], None] = _nobody
        """Called with the pipe's number when a vertical blank of it begins."""
        self._registers = registers
        self._gtt = gtt
        self._cursors = gtt if cursors is None else cursors
        self._planes = [Plane(registers, n, partial(self._written, n)) for n in range(PIPES)]
        self._cursor = [
            Cursor(registers, n, partial(self._written, n + PIPES)) for n in range(PIPES)
        ]
        self._layers = [part.latch for part in self._planes]
        self._layers += [part.latch for part in self._cursor]
        self._sizes = [NO_SIGNAL] * PIPES
        # The driver has the mode back before anybody can ask for a picture.
        self._after_reset: list[Frame | None] = [None] * PIPES
        self._pipes = [
            Pipe(
                n,
                registers,
                interrupts,
                faults,
                clock,
                PipeCrc(registers, n, partial(self.scene, n), partial(self.fetched, n)),
                partial(self._latch, n),
                partial(self._begun, n),
            )
            for n in range(PIPES)
        ]
        self._crt = Crt(registers, interrupts)
        self._gmbus = Gmbus(registers, faults, lambda: self._crt.plugged)
        faults.watch(self._faults_changed)

    # -- as a part ---------------------------------------------------------------------

    def reset(self) -> None:
        """A GPU reset happened: everything is off."""
        for pipe in self._pipes:
            pipe.settle()
        for first, last in WIPED:
            self._registers.restore(first, last)
        for latch in self._layers:
            latch.clear()
        for pipe in self._pipes:
            pipe.reset()
        self._crt.reset()
        self._gmbus.reset()
        self._after_reset = [self.frame(pipe) for pipe in range(PIPES)]

    def due(self) -> int | None:
        """When a pipe wants to run next, in ns of the chip's clock."""
        times = [time for pipe in self._pipes if (time := pipe.due()) is not None]
        return min(times, default=None)

    def tick(self, now: int) -> None:
        """Let every pipe account for what has passed until `now`."""
        for pipe in self._pipes:
            pipe.tick(now)

    # -- seen from outside ---------------------------------------------------------------

    def plug(self, plugged: bool) -> None:
        """Plug the monitor in or pull it out."""
        self._crt.plug(plugged)

    def frame(self, pipe: int) -> Frame | None:
        """What `pipe` scans out now; None while it is off.  Raises ValueError: no such pipe."""
        self._pipes[_existing(pipe)].settle()
        if not self._pipes[pipe].running:
            return None
        scene = self.scene(pipe)
        self._sizes[pipe] = scene.width, scene.height
        return Frame.of(scene.compose(*self.fetched(pipe, scene)))

    def png(self, pipe: int) -> bytes:
        """The same as a PNG file; black, and as large as the last frame, while it is off."""
        frame = self.frame(pipe)
        return (frame or Frame.black(*self._sizes[pipe])).png()

    def png_at_reset(self, pipe: int) -> bytes:
        """The same, of the moment after the last reset.  Raises ValueError as `frame` does."""
        frame = self._after_reset[_existing(pipe)]
        return (frame or Frame.black(*self._sizes[pipe])).png()

    def line(self, pipe: int) -> int:
        """The scanline that `pipe` is on."""
        return self._pipes[pipe].line()

    def vblanks(self, pipe: int) -> int:
        """How many vertical blanks `pipe` has had."""
        self._pipes[pipe].settle()
        return self._pipes[pipe].vblanks

    def state(self) -> dict[str, Any]:
        """What a person wants to see of it."""
        return {
            "pipes": [self._pipe_state(pipe) for pipe in self._pipes],
            "monitor": {
                "plugged": self._crt.plugged,
                "pipe": self._crt.pipe(),
                "edid_transfers": self._gmbus.transfers,
            },
        }

    def _pipe_state(self, pipe: Pipe) -> dict[str, Any]:
        pipe.settle()
        timing = pipe.timing
        planes = []
        for name, plane in zip("AB", self._planes, strict=True):
            if plane.latch.shown_on(pipe.index):
                shape = asdict(plane.shape())
                shape["format"] = FORMATS.get(shape["format"], (f"{shape['format']}?", 0))[0]
                planes.append({"plane": name, **shape})
        return {
            "enabled": pipe.enabled,
            "running": pipe.running,
            "mode": None if timing is None else asdict(timing),
            "refresh_hz": None if timing is None else round(timing.refresh_hz, 3),
            "line": pipe.line(),
            "vblanks": pipe.vblanks,
            "planes": planes,
            "cursor": any(cursor.latch.shown_on(pipe.index) for cursor in self._cursor),
        }

    # -- composing -----------------------------------------------------------------------

    def scene(self, pipe: int) -> Scene:
        """What the registers let `pipe` scan out."""
        source = self._registers[PIPESRC + pipe * TRANSCODER_STRIDE]
        sprites = (cursor.sprite() for cursor in self._cursor if cursor.latch.shown_on(pipe))
        return Scene(
            width=(source >> 16 & PIPESRC_MASK) + 1,
            height=(source & PIPESRC_MASK) + 1,
            planes=tuple(p.shape() for p in self._planes if p.latch.shown_on(pipe)),
            sprites=tuple(sprite for sprite in sprites if sprite is not None),
        )

    def fetched(self, pipe: int, scene: Scene) -> Fetched:
        """The memory that `scene` shows, and the palette of `pipe`."""
        first = PALETTE + pipe * PALETTE_STRIDE
        words = [self._registers[first + 4 * n] & 0xFFFFFF for n in range(COLOURS)]
        return scene.fetch(self._gtt, self._cursors), np.array(words, dtype=np.uint32)

    # -- what the parts call ---------------------------------------------------------------

    def _written(self, latch: int, arms: bool) -> None:
        """Before a write to one of `_layers`: the pipes that it is, or may be, on."""
        ns = PLANE_NS if latch < PIPES else CURSOR_NS
        for number in {latch % PIPES, self._layers[latch].pipe()} & set(range(PIPES)):
            if arms:
                self._pipes[number].update(ns)
            else:
                self._pipes[number].settle()

    def _latch(self, pipe: int) -> None:
        for layer in self._layers:
            if layer.pipe() == pipe:
                layer.take()

    def _begun(self, pipe: int) -> None:
        self.on_vblank(pipe)

    def _faults_changed(self) -> None:
        for pipe in self._pipes:
            pipe.faults_changed()


def _existing(pipe: int) -> int:
    if pipe not in range(PIPES):
        raise ValueError(f"no pipe {pipe!r}; there are 0 to {PIPES - 1}")
    return pipe


def _nobody(pipe: int) -> None:
    """Whoever wants to know of vertical blanks puts a function of its own in this one's place."""
