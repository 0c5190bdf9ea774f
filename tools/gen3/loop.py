"""The model's only thread: QEMU first, then what is due, then people.

One poll for all of it, so that no lock is needed anywhere and an access of the
guest's waits for at most one other thing.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Protocol

from tools.gen3.line import Line

__all__ = ["Loop", "Source", "Timed"]


class Source(Protocol):
    """What has input now and then."""

    def fileno(self) -> int:
        """What to poll; -1 for nothing now."""

    def ready(self) -> None:
        """That fd is readable."""


class Timed(Protocol):
    """What wants the time now and then."""

    def due(self) -> int | None:
        """When, in ns of the clock; None for never."""

    def tick(self, now: int) -> None:
        """It is `now`, at or after what `due` said."""


class Loop:
    """Runs until QEMU goes."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock

    def run(
        self,
        guest: Source,
        line: Line,
        people: Callable[[], Sequence[Source]],
        timed: Callable[[], Timed],
    ) -> None:
        """Serve until the end of `guest` or `line`, which raises EOFError.

        `people` are asked for anew each time they are waited for: they come and go.
        """
        clock = self._clock
        guest_fd = guest.fileno()
        while True:
            due = timed().due()
            timeout = None if due is None else max(0.0, (due - clock()) / 1e9)
            others = {source.fileno(): source for source in (line, *people())}
            others.pop(-1, None)
            ready, _, _ = select.select([guest_fd, *others], [], [], timeout)
            if guest_fd in ready:
                ready.remove(guest_fd)
                guest.ready()
            chip = timed()
            due = chip.due()
            if due is not None and (now := clock()) >= due:
                chip.tick(now)
            for fd in ready:
                others[fd].ready()
