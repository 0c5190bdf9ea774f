"""Holding a target: its lock on this host, and its place where a labgrid coordinator has it.

`hold` is what everybody takes who touches a target; what a place told of it (address, console,
power) is in `Hold.target`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, Self

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target
from harness.lab.reservation import Reservation

__all__ = ["Hold", "PlaceLike", "hold"]

# Seconds between looks at a lock that somebody else has.
_LOOK_S = 1.0
_DESK_S = 30.0

Say = Callable[[str], None]


class PlaceLike(Protocol):
    """What of harness.labgrid.lease.Lease is used here: imported only where it is needed."""

    taken_over: str

    def now(self) -> Target:
        """The target, completed from what its place is made of now."""

    def check(self) -> None:
        """Raises LabError when it is not ours any more."""

    def lost(self) -> str:
        """Why it is not, or nobody can tell."""

    def release(self) -> None:
        """Give it back."""


class Hold:
    """A target that is ours until `release`."""

    def __init__(self, target: Target, lock: Reservation, place: PlaceLike | None) -> None:
        """Made by `hold`."""
        self.target = target
        """As configured, and completed."""
        self.taken_over = "; ".join(
            filter(None, (lock.taken_over, place.taken_over if place else ""))
        )
        """Whose was taken over and why, in words; "" when nobody's was."""
        self._lock = lock
        self._place = place

    def now(self) -> Target:
        """The target as its place is now: an exporter that was restarted moves its console."""
        return self._place.now() if self._place else self.target

    def check(self) -> None:
        """Look now.  Raises LabError when the target is not ours any more."""
        self._lock.check()
        if self._place:
            self._place.check()

    def lost(self) -> str:
        """Why it is not ours any more, or nobody can tell whether it is; "" while it is."""
        try:
            self._lock.check()
        except LabError as error:
            return error.what
        return self._place.lost() if self._place else ""

    def release(self) -> None:
        """Give it back.  Idempotent."""
        try:
            if self._place:
                self._place.release()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(
    target: Target, command: str, *, wait_s: float = 0.0, say: Say = lambda line: None
) -> Hold:
    """Take `target`; `command` is shown to whoever else wants it, `say` gets who has it.

    Raises LabError when another has it for longer than `wait_s`, naming who; UsageError where
    the target list asks for a labgrid that is not installed.
    """
    if target.coordinator is None:
        return Hold(target, _locked(target, command, Deadline(wait_s), say), None)
    from harness.labgrid.lease import Lease, dispatched

    # Who on this host does not know yet that a dispatcher has the place learns it, and goes away.
    deadline = Deadline(max(wait_s, _DESK_S) if dispatched(os.environ) else wait_s)
    lock = _locked(target, command, deadline, say)
    try:
        place = Lease.take(target, command, wait_s=deadline.left(), say=say, environ=os.environ)
        try:
            return Hold(place.now(), lock, place)
        except BaseException:
            place.release()
            raise
    except BaseException:
        lock.release()
        raise


def _locked(target: Target, command: str, deadline: Deadline, say: Say) -> Reservation:
    said = ""
    while True:
        try:
            return Reservation.take(target.name, command)
        except LabError as error:
            if not deadline.pause(_LOOK_S):
                raise
            if error.what != said:
                said = error.what
                say(f"{target.name}: {said}")
