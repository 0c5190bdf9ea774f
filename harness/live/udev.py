"""What udev told its listeners for a while, beside what the kernel told udev.

Two streams of uevents, from the kernel's netlink group and from udevd's: an event that udevd
lost, or passed on late, is in the one alone.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from harness.deadline import Deadline
from harness.link.agent import Agent, Collection

__all__ = ["Udev"]

# Between two looks, in seconds.
_LOOK_S = 0.2


class Udev:
    """Listens while a `with` block runs; `kernel` and `udev` are the events, in their order."""

    def __init__(self, agent: Agent, device: str, limit_s: float) -> None:
        """`device` is a card by its PCI address or name; `limit_s` bounds one step."""
        self.kernel: list[dict[str, Any]] = []
        self.udev: list[dict[str, Any]] = []
        self._agent = agent
        self._device = device
        self._limit_s = limit_s
        self._heard = {"kernel": bytearray(), "udev": bytearray()}
        self._leaving = ExitStack()

    def wait(self, patience_s: float) -> bool:
        """Until the kernel told anything of the card; whether it did."""
        deadline = Deadline(patience_s)
        while not self._ours("kernel"):
            if not deadline.pause(_LOOK_S):
                return False
        return True

    def told(self, events: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """What `events` say of the card's recovery: (name, value) in their order."""
        names = ("ERROR", "RESET", "WEDGED")
        pairs = [(name, event["properties"].get(name)) for event in events for name in names]
        return [(name, value) for name, value in pairs if value is not None]

    def __enter__(self) -> Udev:
        for source, heard in self._heard.items():
            collection = self._agent.collect(
                "uevents", heard.extend, Deadline(self._limit_s), source=source
            )
            self._leaving.callback(self._stop, collection)
        return self

    def __exit__(self, *exc: object) -> None:
        with self._leaving:
            # udevd has worked on all that came so far when its queue is empty (udevadm(8)).
            argv = ["udevadm", "settle", f"--timeout={self._limit_s:.0f}"]
            self._agent.call("run", Deadline(2 * self._limit_s), argv=argv, timeout=self._limit_s)
        self.kernel, self.udev = self._ours("kernel"), self._ours("udev")

    def _stop(self, collection: Collection) -> None:
        collection.stop(Deadline(self._limit_s))

    def _ours(self, source: str) -> list[dict[str, Any]]:
        """Whole lines of what came so far, of the card."""
        lines = bytes(self._heard[source]).split(b"\n")[:-1]
        events = [json.loads(line) for line in lines]
        return [event for event in events if self._device in event["devpath"].split("/")]
