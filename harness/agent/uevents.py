"""Uevents as JSON lines: what happened to which device, and when.

From the kernel's own netlink group, so that a target without a running udevd tells as much; or
from udevd's, to which it sends what it has worked on.
"""

from __future__ import annotations

import errno
import json
import select
import time
from typing import Any

from .collector import Collector, Sink
from .errors import target

__all__ = ["UeventCollector"]

_RECEIVE_BUFFER = 4 << 20


class UeventCollector(Collector):
    """One line an event: {"mono": ns, "seqnum", "action", "devpath", "subsystem", "properties"}."""

    def __init__(self, stream: int, sink: Sink, subsystems: list[str], source: str) -> None:
        """`source` is kernel or udev."""
        super().__init__(stream, sink, "uevents")
        self._monitor = _monitor(subsystems, source)

    def collect(self) -> None:
        """Until stopped.  Says `uevents_lost` when the socket overflowed."""
        while not self.stopping:
            select.select([self._monitor, self.wake_fd], [], [])
            while not self.stopping:
                try:
                    device = self._monitor.poll(0)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self.event({"event": "uevents_lost", "stream": self.stream})
                    continue
                if device is None:
                    break
                line = {
                    "mono": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
                    "seqnum": device.sequence_number,
                    "action": device.action,
                    "devpath": device.device_path,
                    "subsystem": device.subsystem,
                    "properties": dict(device.properties),
                }
                if not self.send(json.dumps(line, separators=(",", ":")).encode() + b"\n"):
                    return


def _monitor(subsystems: list[str], source: str) -> Any:
    """A listening monitor.  Imported here: a target without libudev can do all the rest."""
    try:
        import pyudev  # type: ignore[import-untyped]

        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        for subsystem in subsystems:
            monitor.filter_by(subsystem)
        monitor.set_receive_buffer_size(_RECEIVE_BUFFER)
        monitor.start()
    except (ImportError, OSError, ValueError) as error:
        raise target(
            f"cannot listen to uevents: {error}", "udev", "install libudev1 and run as root"
        ) from error
    return monitor
