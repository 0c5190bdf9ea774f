"""The model's only thread: QEMU first, then what is due, then people.

One poll for all of it, so that no lock is needed anywhere and an access of the
guest's waits for at most one other thing.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Protocol

from tools.gen3.stalls import Stalls

__all__ = ["Loop", "Source", "Timed"]


# While accesses come one upon the other, the chip is asked only that often what is due:
# to ask costs as much as to serve one.
_BUSY_NS = 1_000_000


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
        stalls: Stalls,
    ) -> None:
        """`people` come and go when one of them had input; `timed` is asked for each time."""
        self._guest = guest
        self._line = line
        self._people = people
        self._timed = timed
        self._clock = clock
        self._took = stalls.took
        self._poll = select.poll()
        self._others: dict[int, Source] = {}

    def run(self) -> None:
        """Serve until the end of the guest or of the line, which raises EOFError."""
        clock, poll, timed, serve = self._clock, self._poll.poll, self._timed, self._guest.ready
        guest, others, took = self._guest.fileno(), self._others, self._took
        self._poll.register(guest, select.POLLIN)
        self._look_around()
        asked = 0
        ready: list[tuple[int, int]] = []
        while True:
            now = clock()
            wait: float | None = _BUSY_NS / 1e6
            if not ready or now - asked >= _BUSY_NS:
                asked, chip = now, timed()
                due = chip.due()
                # Rounded up to milliseconds by poll: who is late by less than one is in time.
                wait = None if due is None else max(0.0, (due - now) / 1e6)
                if wait == 0:
                    chip.tick(now)
                    now = took("a tick of the chip", now)
            ready = poll(wait)
            if wait is None:
                # Whether it came late nobody can tell.
                now = clock()
            else:
                now = took("the host did not run the model", now, int(wait * 1e6))
            for fd, _ in ready:
                if fd == guest:
                    serve()
                    now = took("an access of the guest's", now)
                elif fd in others:
                    others[fd].ready()
                    now = took("the control socket or the interrupt line", now)
                    self._look_around()
            line = self._line.fileno()
            if line >= 0 and line not in others:
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
