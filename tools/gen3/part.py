"""What every part of the chip that keeps time of its own offers.

The chip asks such parts when they want to run next; everything else reaches
a part through its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "Part"]

Clock = Callable[[], int]
"""Nanoseconds that only grow: time.monotonic_ns, or a test's own."""


class Part(Protocol):
    """A part of the chip, driven by the chip's loop."""

    def due(self) -> int | None:
        """When `tick` is wanted next, in ns of the chip's clock; None for never."""

    def tick(self, now: int) -> None:
        """Do what is due at `now`; harmless when nothing is."""
