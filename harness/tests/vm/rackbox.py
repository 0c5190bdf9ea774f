"""A virtual machine that hangs off a rack's wires as a box does: a serial line, and a socket of a
PDU, which a thread here pulls and plugs."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator
from pathlib import Path

from harness.deadline import Deadline
from harness.inventory import Target
from harness.link.qemu import Qemu
from harness.link.virtual import Manifest
from harness.tests.loopback.servers import Serial

__all__ = ["wired"]

# Seconds for QEMU to start or end on a host that does much else.
_SWITCH_S = 120.0
_LOOK_S = 0.2


@contextlib.contextmanager
def wired(target: Target, made: Manifest, folder: Path, outlets: Path) -> Iterator[Wires]:
    """`target`'s machine, which is off; its power follows what pdudaemon writes to `outlets`."""
    wires = Wires(target, made, folder, outlets)
    try:
        yield wires
    finally:
        wires.close()


class Wires:
    """Between a machine and its rack."""

    def __init__(self, target: Target, made: Manifest, folder: Path, outlets: Path) -> None:
        self.serial = Serial()
        self.machine = Qemu(target, made, folder, self._say)
        self._outlets = outlets
        self._told = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.machine.stop()
        self.serial.close()

    def _say(self, data: bytes) -> None:
        # A line that nobody listens to loses what is said, as a wire does.
        while data and select.select([], [self.serial.machine], [], _LOOK_S)[1]:
            self.serial.say(data[:256])
            data = data[256:]

    def _follow(self) -> None:
        while not self._done.wait(_LOOK_S):
            with contextlib.suppress(FileNotFoundError):
                lines = self._outlets.read_text().splitlines()
                for line in lines[self._told :]:
                    switch = self.machine.on if line.endswith(" on") else self.machine.off
                    switch(Deadline(_SWITCH_S))
                self._told = len(lines)
