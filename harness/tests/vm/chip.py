"""A modelled chip as tests see it: from outside, over its control socket."""

from __future__ import annotations

import struct
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from harness.deadline import Deadline
from harness.link.gen3 import CONTROL_SOCKET
from harness.link.machine import state_dir
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S
from harness.tests.vm.screen import MODES, crc_lines, shown
from tools.gen3.control import Client
from tools.gen3.crc import channels
from tools.gen3.plane import Pixels

__all__ = ["Chip", "crc_line", "crcs", "decoded", "displayed", "the_crc_line"]


class Chip:
    """The control socket of the model that `sim` runs on."""

    def __init__(self, sim: Dut) -> None:
        self._client = Client(state_dir(sim.target) / CONTROL_SOCKET, PATIENCE_S)

    def close(self) -> None:
        """Every fault off, and the monitor back."""
        self._client.call("reset-faults")
        self._client.call("plug", on=True)
        self._client.close()

    def fault(self, name: str, value: str) -> None:
        self._client.call("set", fault=name, value=value)

    def plug(self, on: bool) -> None:
        self._client.call("plug", on=on)

    def png(self, pipe: int = 0, at: str = "now") -> bytes:
        return b64decode(self._client.call("frame", pipe=pipe, at=at)["png"])

    def resets(self) -> int:
        """How many have taken effect."""
        return int(self._client.call("state")["state"]["resets"])

    def display(self) -> dict[str, Any]:
        """The state of the display engine."""
        state = self._client.call("state")
        found = state.get("display") or state["state"]["display"]
        assert isinstance(found, dict)
        return found

    def pipe(self, index: int = 0) -> dict[str, Any]:
        found = self.display()["pipes"][index]
        assert isinstance(found, dict)
        return found

    def until(self, so: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait for a state of the display; looks every 10 ms, since nobody tells."""
        deadline = Deadline(PATIENCE_S)
        while not so(state := self.display()):
            assert not deadline.expired(), f"{what}: never; it is {state}"
            time.sleep(0.01)


def decoded(png: bytes) -> Pixels:
    """Rows of 0x00RRGGBB of an RGB PNG whose rows are not filtered, as the model writes them."""
    at, data = 8, b""
    width = height = 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        chunk = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", chunk[:8])
        elif kind == b"IDAT":
            data += chunk
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(data), dtype=np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    pixels = rows[:, 1:].reshape(height, width, 3).astype(np.uint32)
    return np.asarray(pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2], np.uint32)


def crc_line(pixels: Pixels) -> str:
    """What DRM's CRC file says of a frame: four results of gen3's unit, and none for the fifth
    (i9xx_pipe_crc_irq_handler)."""
    return " ".join(f"0x{value:08x}" for value in (*channels(pixels), 0))


def crcs(sim: Dut, count: int = 4) -> list[str]:
    """Those of the next `count` frames, as DRM prints them."""
    return [line.partition(" ")[2] for line in crc_lines(sim, count)]


def the_crc_line(sim: Dut) -> str:
    """Of a picture that stands still."""
    (value,) = set(crcs(sim))
    return value


@contextmanager
def displayed(
    sim: Dut, chip: Chip, *args: str, mode: str = MODES[0], pipe: int = 0
) -> Iterator[None]:
    """modetest shows its picture on `pipe` meanwhile."""
    with shown(sim, *args, mode=mode, pipe=pipe):
        chip.until(
            lambda state: any(p["width"] for p in state["pipes"][pipe]["planes"]), "a picture"
        )
        yield
    # The kernel takes the framebuffer away with its client, and leaves the CRTC on.
    chip.until(lambda state: not state["pipes"][pipe]["planes"], "the picture gone")
