"""The model's only thread: QEMU first, then what is due, then people.

One poll for all of it, so that no lock is needed anywhere and an access of the
guest's waits for at most one other thing.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Protocol

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

    def __init__(
        self,
        guest: Source,
        line: Source,
        people: Callable[[], Sequence[Source]],
        timed: Callable[[], Timed],
        clock: Callable[[], int],
    ) -> None:
        """`people` come and go when one of them had input; `timed` is asked for each time."""
        self._guest = guest
        self._line = line
        self._people = people
        self._timed = timed
        self._clock = clock
        self._poll = select.poll()
        self._others: dict[int, Source] = {}

    def run(self) -> None:
        """Serve until the end of the guest or of the line, which raises EOFError."""
        clock, poll, timed, serve = self._clock, self._poll.poll, self._timed, self._guest.ready
        guest, others = self._guest.fileno(), self._others
        self._poll.register(guest, select.POLLIN)
        self._look_around()
        while True:
            chip = timed()
            due = chip.due()
            if due is None:
                ready = poll()
            elif (left := due - (now := clock())) > 0:
                # Rounded up to milliseconds: who is late by less than one is in time.
                ready = poll(left / 1_000_000)
            else:
                chip.tick(now)
                ready = poll(0)
            for fd, _ in ready:
                if fd == guest:
                    serve()
                elif fd in others:
                    others[fd].ready()
                    self._look_around()
            if self._line.fileno() not in (-1, *others):
                self._look_around()

    def _look_around(self) -> None:
        """Poll what there is now."""
        now = {
            fd: source for source in (self._line, *self._people()) if (fd := source.fileno()) >= 0
        }
        for fd in self._others.keys() - now:
            self._poll.unregister(fd)
        for fd in now.keys() - self._others.keys():
            self._poll.register(fd, select.POLLIN)
        self._others.clear()
        self._others.update(now)
