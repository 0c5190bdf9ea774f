"""The way to a place: queued for, told who has it, taken over from the dead, acquired."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Coordinator
from harness.labgrid.places import Standing, Watch, fitting, position, unmatched
from harness.labgrid.session import Gone, Refused, Session
from harness.tomlerror import nearest

__all__ = ["GRACE_S", "Held", "Quest", "Say", "told"]

_LOG = logging.getLogger(__name__)
# Seconds between polls of a reservation, which dies after 60 without one.
_POLL_S = 5.0
GRACE_S = 5.0
"""After the coordinator came back, owners get so long to take theirs again before others do."""

Say = Callable[[str], None]


class Held(LabError):
    """Others have it, or come first."""


class Quest:
    """On the way to a place."""

    def __init__(
        self,
        session: Session,
        filters: dict[str, str],
        spec: Coordinator,
        wait_s: float,
        say: Say,
        watch: Watch,
    ) -> None:
        self.taken_over = ""
        self._session = session
        self._filters = filters
        self._spec = spec
        self._wait = Deadline(wait_s)
        self._say = say
        self._watch = watch
        self._said = ""
        self._token = ""
        # What we have asked for: it may be ours though nobody told us so.
        self._asked = ""
        # Until when exporters may stay away.
        self._away: Deadline | None = None

    def go(self) -> str:
        """The place, acquired."""
        try:
            while True:
                try:
                    self._session.reach(Deadline(self._spec.patience_s))
                    return self._attend()
                except Gone as error:
                    # Its queue is gone with it; those who held places come first.
                    self._token = ""
                    self._tell(f"the coordinator is away: {error.what}")
                    self._session.reach(Deadline(self._spec.patience_s))
                    grace = Deadline(GRACE_S)
                    while not grace.expired():
                        self._session.wait(grace.left())
        except BaseException:
            self._leave()
            self._give_back()
            raise

    def _attend(self) -> str:
        """While one connection lasts."""
        if not fitting(self._session.places().values(), self._filters):
            raise self._none()
        asked = self._session.places().get(self._asked)
        if asked is not None and asked.acquired == self._session.owner:
            return asked.name  # the connection broke before we were told
        # What changes after we asked is not slept through: the answer may be older than the news.
        version = self._session.version
        mine = self._session.reserve(self._filters)
        self._token = mine.token
        while True:
            if mine.state == "allocated" and self._acquired(mine):
                # Kept, it would have the place for another minute when we release it.
                self._leave()
                return mine.place
            if mine.state in ("expired", "invalid"):
                mine = self._session.reserve(self._filters)
                self._token = mine.token
            elif mine.state == "waiting":
                self._others(mine)
            pause = min(_POLL_S, self._spec.stale_s / 4, (self._away or self._wait).left() + 0.1)
            self._session.wait(pause, version)
            version = self._session.version
            try:
                mine = self._session.poll(mine.token)
            except Refused:  # dropped: this process had been stopped for a minute
                mine = self._session.reserve(self._filters)
                self._token = mine.token

    def _acquired(self, mine: Standing) -> bool:
        """Take what was allocated to us; False while what it is made of is away."""
        place = self._session.places().get(mine.place)
        missing = unmatched(place, self._session.exports()) if place else []
        said = f"nothing is exported as {', '.join(missing)}"
        if place is not None and not missing:
            self._asked = place.name
            try:
                self._session.acquire(place.name)
                return True
            except Refused as error:
                said = error.what
        self._away = self._away or Deadline(self._spec.patience_s)
        if self._away.expired():
            raise LabError(
                f"cannot be acquired: {said}",
                where=mine.place,
                cure="are its exporters running? see `labgrid-client resources`",
            )
        self._tell(f"{mine.place}: waiting for its exporters: {said}")
        return False

    def _others(self, mine: Standing) -> None:
        """Somebody has what we want: say who, take over from the dead, or give up."""
        places = list(self._session.places().values())
        held = [place for place in fitting(places, self._filters) if place.acquired]
        now, wall = time.monotonic(), time.time()
        self._watch.see(held, now)
        if self._spec.take_over == "dead":
            for place in held:
                if self._watch.dead(place, now, wall):
                    self._session.release(place.name, place.acquired)
                    self.taken_over = f"took {place.told()} over: nothing was heard of its owner"
                    _LOG.warning("%s", self.taken_over)
                    return
        number, length = position(mine, self._session.reservations(), places)
        who = "; ".join(place.told() for place in held)
        queue = f"number {number} of {length} in the queue" if length > 1 else "next in the queue"
        doubtful = self._spec.take_over == "dead" and any(
            self._watch.suspect(place, now, wall) for place in held
        )
        if self._wait.expired() and not doubtful:
            raise Held(
                f"held by {who or 'nobody yet, but others wait for it'} ({queue})",
                where=told(self._filters),
                cure="wait for it, or stop it; if its owner is gone for good,"
                " `labgrid-client -p PLACE release --kick`",
            )
        self._tell(f"{told(self._filters)}: {queue}, held by {who or 'nobody'}")

    def _tell(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._say(line)

    def _leave(self) -> None:
        if self._token:
            try:
                self._session.cancel(self._token)
            except (Gone, Refused) as error:
                _LOG.debug("the reservation is left to expire: %s", error)

    def _give_back(self) -> None:
        if self._asked:
            try:
                self._session.release(self._asked, self._session.owner)
            except (Gone, Refused) as error:
                _LOG.debug("%s was not ours to give back: %s", self._asked, error)

    def _none(self) -> UsageError:
        known = self._session.places()
        wanted = self._filters.get("name", "")
        if set(self._filters) == {"name"}:
            what = f"the coordinator knows no place {wanted!r}{nearest(wanted, known)}"
        else:
            what = f"no place of the coordinator's has the tags {told(self._filters)}"
        return UsageError(
            what,
            where=self._session.address,
            cure=f"choose among {', '.join(sorted(known)) or '(none)'}; `lab targets --import`",
        )


def told(filters: Mapping[str, str]) -> str:
    """Tags in words."""
    return " ".join(f"{key}={value}" for key, value in sorted(filters.items()))
