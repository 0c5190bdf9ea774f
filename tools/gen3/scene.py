"""What a pipe shows in one frame: its size, and the planes and cursors on it.

A scene is the state of registers at one time and touches nothing: its memory is
fetched, and composed from what was fetched, when somebody wants to see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from tools.gen3.cursor import Sprite
from tools.gen3.plane import Pixels, Shape, Surface

__all__ = ["Palette", "Scene"]

Palette = npt.NDArray[np.uint32]
"""256 times 0x00RRGGBB."""


@dataclass(frozen=True)
class Scene:
    """One pipe's, planes and cursors from the lowest to the uppermost."""

    width: int
    height: int
    planes: tuple[Shape, ...]
    sprites: tuple[Sprite, ...]

    def fetch(self, planes: Surface, cursors: Surface) -> list[bytes]:
        """The memory that it shows, in its order."""
        fetched = [plane.fetch(planes, self.width, self.height) for plane in self.planes]
        return fetched + [sprite.fetch(cursors) for sprite in self.sprites]

    def compose(self, fetched: list[bytes], palette: Palette) -> Pixels:
        """Its pixels; black where nothing is."""
        canvas = np.zeros((self.height, self.width), dtype=np.uint32)
        below, above = fetched[: len(self.planes)], fetched[len(self.planes) :]
        for plane, pixels in zip(self.planes, below, strict=True):
            plane.draw(canvas, pixels, palette)
        for sprite, pixels in zip(self.sprites, above, strict=True):
            sprite.draw(canvas, pixels)
        return canvas

    def fingerprint(self, fetched: list[bytes], palette: Palette) -> tuple[object, ...]:
        """Equal for scenes that compose to the same pixels, and cheaper than those."""
        colours = bytes(palette.data) if any(plane.corrected for plane in self.planes) else b""
        return self, colours, *map(crc32, fetched)
