"""A target's place, held with a connection of its own; and the target as that place makes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.labgrid.exports import completed
from harness.labgrid.hold import ACTS_FOR, PlaceHold, own_name
from harness.labgrid.session import Session

__all__ = ["Lease", "dispatched"]

_LOG = logging.getLogger(__name__)
# Seconds for what an exporter started to be told of.
_START_S = 5.0


class Away(LabError):
    """An exporter has gone since the place was acquired."""


def dispatched(environ: Mapping[str, str]) -> str:
    """The dispatcher whose places a session with this environment uses; "" for one by hand."""
    return environ.get(ACTS_FOR, "")


class Lease:
    """The place of one target."""

    def __init__(self, target: Target, session: Session, place: PlaceHold) -> None:
        """Made by `take`."""
        self.taken_over = place.taken_over
        self._target = target
        self._session = session
        self._place = place
        self._known: Target | None = None
        self._said = ""
        assert target.coordinator is not None
        self._patience_s = target.coordinator.patience_s

    @classmethod
    def take(
        cls,
        target: Target,
        command: str,
        *,
        wait_s: float,
        say: Callable[[str], None],
        environ: Mapping[str, str],
    ) -> Lease:
        """Queue for the place and take it, or use the one that a dispatcher has for us.

        Raises as PlaceHold.take does.
        """
        spec = target.coordinator
        assert spec is not None
        dispatcher = dispatched(environ)
        session = Session(spec.address, dispatcher or own_name())
        try:
            if dispatcher:
                place = PlaceHold.join(session, target.filters, spec, command)
            else:
                place = PlaceHold.take(
                    session, target.filters, spec, command, wait_s=wait_s, say=say
                )
        except BaseException:
            session.close()
            raise
        return cls(target, session, place)

    def now(self) -> Target:
        """The target, completed from what its place is made of now.

        As it was last while its exporters are away, or what it is made of would not do any more:
        a session goes on with what it has.  Raises as `completed` does the first time.
        """
        # What an exporter starts for us is told a moment after it was acquired.
        started, patience = Deadline(_START_S), Deadline(self._patience_s)
        while True:
            version = self._session.version
            try:
                self._known = self._complete()
            except UsageError as error:
                if self._known is None:
                    raise
                self._complain(error)
            except LabError as error:
                until = patience if isinstance(error, Away) else started
                if self._known is None and until.expired():
                    raise
                if self._known is None:
                    self._session.wait(until.left(), version)
                    continue
            return self._known

    def _complain(self, error: UsageError) -> None:
        if error.what != self._said:
            self._said = error.what
            _LOG.warning("%s was changed while it is in use: %s", error.where, error.what)

    def _complete(self) -> Target:
        if missing := self._place.missing():
            # Half of its parts would make a target without a console.
            raise Away(
                f"nothing is exported as {', '.join(missing)} any more",
                where=self._place.place_name,
                cure="are its exporters running? see `labgrid-client resources`",
            )
        return completed(self._target, self._place.place(), self._place.parts())

    def check(self) -> None:
        """Raises LabError when the place is not ours any more."""
        self._place.check()

    def lost(self) -> str:
        """Why it is not ours any more, or nobody can tell; "" while it is."""
        return self._place.lost()

    def release(self) -> None:
        """Give it back, and leave.  Idempotent."""
        self._place.release()
        self._session.close()
