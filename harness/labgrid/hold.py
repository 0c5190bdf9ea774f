"""A place that is ours until `release`: queued for, acquired, kept, and got back after a restart.

While it is held a thread touches it several times in `stale_s`.  Whoever wants it can so tell
a dead owner from a busy one on whatever host; and a coordinator that forgot everything is told
again at once.
"""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from datetime import UTC, datetime

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Coordinator
from harness.labgrid.places import (
    Export,
    Place,
    Watch,
    exports_of,
    fitting,
    note_of,
    unmatched,
)
from harness.labgrid.quest import Quest, Say, told
from harness.labgrid.session import Gone, Refused, Session

__all__ = ["ACTS_FOR", "PlaceHold", "own_name"]

_LOG = logging.getLogger(__name__)
ACTS_FOR = "TDRLAB_ACTS_FOR"
"""Names, in the environment, the owner of the places that a session of a dispatcher's uses."""
# Seconds between looks at what tells nothing when it changes.
_AGAIN_S = 0.25
# How long an owner's acquiring anew may take, for all resources of a place; and until it shows
# that this is what happens.
_ANEW_S = 30.0
_FREE_S = 1.0
# A priority that nobody else asks for.
_FIRST = 1e6
# How long to try to give a place back where the coordinator is away: it forgets it by itself.
_LEAVE_S = 5.0


def own_name() -> str:
    """A name that no other process has, in the form labgrid-client expects: host/user."""
    user = getpass.getuser().replace("/", "_")
    return f"{socket.gethostname()}/{user}.{os.getpid()}.{secrets.token_hex(3)}"


class PlaceHold:
    """A place of ours."""

    def __init__(
        self, session: Session, place: str, spec: Coordinator, note: str, *, ours: bool
    ) -> None:
        """Made by `take` and `join`.  `ours`: acquired by us, who give it back."""
        self.place_name = place
        self.taken_over = ""
        """Whose place was taken over, in words; "" when nobody's was."""
        self._session = session
        self._spec = spec
        self._note = note
        self._ours = ours
        # Acquired, but perhaps not with all that it is made of.
        self._partial = False
        # Of the reservation that keeps it ours while it is acquired anew; "" when there is none.
        self._token = ""
        self._generation = session.generation
        self._lost = ""
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"hold {place}")

    @classmethod
    def take(
        cls,
        session: Session,
        filters: Mapping[str, str],
        spec: Coordinator,
        command: str,
        *,
        wait_s: float = 0.0,
        say: Say = lambda line: None,
        watch: Watch | None = None,
    ) -> PlaceHold:
        """Queue for a place with these tags, and take it; waits `wait_s` for whoever has it.

        A coordinator or exporter that is away is waited for apart from that, `spec.patience_s`.
        Raises UsageError where no place has those tags, LabError naming the holders otherwise.
        """
        quest = Quest(session, dict(filters), spec, wait_s, say, watch or Watch(spec.stale_s))
        place = quest.go()
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        note = note_of(session.owner, since, command)
        held = cls(session, place, spec, note, ours=True)
        held.taken_over = quest.taken_over
        held._begin()
        return held

    @classmethod
    def join(
        cls, session: Session, filters: Mapping[str, str], spec: Coordinator, command: str
    ) -> PlaceHold:
        """Use the place that our owner, a dispatcher that started us, has acquired already."""
        deadline = Deadline(spec.patience_s)
        owned: list[Place] = []
        while not owned:
            session.reach(deadline)
            fit = fitting(session.places().values(), filters)
            owned = [place for place in fit if place.acquired == session.owner]
            # After a restart of the coordinator the dispatcher takes it again.
            if owned or (not any(place.acquired for place in fit) and not deadline.expired()):
                session.wait(0.0 if owned else _AGAIN_S)
                continue
            raise LabError(
                f"no place is {session.owner}'s, which started this session",
                where=told(filters),
                cure=f"did it end? otherwise unset {ACTS_FOR}",
            )
        note = owned[0].note() or note_of(session.owner, "then", command)
        held = cls(session, owned[0].name, spec, note, ours=False)
        held._begin()
        return held

    def place(self) -> Place:
        """As last told.  Raises LabError when it is no more."""
        found = self._session.places().get(self.place_name)
        if found is None:
            raise LabError(
                "the coordinator knows it no more", where=self.place_name, cure="labgrid-client"
            )
        return found

    def parts(self) -> list[tuple[str, Export]]:
        """What it is made of now, each with what the place calls it."""
        return exports_of(self.place(), self._session.exports())

    def missing(self) -> list[str]:
        """Of what it is to be made, what nobody exports now."""
        return unmatched(self.place(), self._session.exports())

    def check(self) -> None:
        """Look now; waits for a coordinator that is away.

        Raises LabError when the place is not ours any more, or nobody can say so in time.
        """
        deadline = Deadline(self._spec.patience_s)
        while True:
            try:
                with self._lock:
                    self._beat()
                break
            except Gone:
                if deadline.expired():
                    raise
                self._session.wait(_AGAIN_S)
        if self._lost:
            raise LabError(
                f"the reservation is lost: {self._lost}",
                where=self.place_name,
                cure="stop using the target; see `labgrid-client who` for who holds it",
            )

    def lost(self) -> str:
        """Why it is not ours any more, or nobody can tell whether it is; "" while it is.

        Waits as `check` does: who was quicker after a restart may have used it for a while.
        """
        try:
            self.check()
        except LabError as error:
            return error.what
        return ""

    def mark(self, tags: Mapping[str, str]) -> None:
        """Leave tags at the place, which it keeps.  Raises LabError where that fails."""
        self._session.tag(self.place_name, tags)

    def release(self) -> None:
        """Give it back, if it is ours to give.  Idempotent; raises nothing: what cannot be given
        back is forgotten by a coordinator that starts, or taken over by who waits for it."""
        if self._done.is_set():
            return
        self._done.set()
        self._session.nudge()
        if self._keeper is not threading.current_thread():
            self._keeper.join()
        self._unreserve()
        if not self._ours or self._lost:
            return
        deadline = Deadline(_LEAVE_S)
        while True:
            try:
                self._unreserve()
                self._session.release(self.place_name, self._session.owner)
                return
            except Refused:
                return  # nobody's any more: the coordinator was started anew
            except Gone as error:
                try:
                    self._session.reach(deadline)
                except Gone:
                    _LOG.warning("%s was not given back: %s", self.place_name, error)
                    return

    def _begin(self) -> None:
        with self._lock:
            try:
                self._beat()
            except Gone as error:
                _LOG.warning("%s", error)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over():
            seen = self._session.generation
            try:
                with self._lock:
                    self._beat()
                pause = Deadline(1.0 if self._partial else self._spec.stale_s / 4)
            except LabError:
                pause = Deadline(1.0)
            # A coordinator that came back has forgotten us, and may give it to the next.
            while not (self._over() or pause.expired() or self._session.generation != seen):
                self._session.wait(pause.left())

    def _over(self) -> bool:
        """Whether there is nothing to keep any more, or nobody to tell."""
        return self._done.is_set() or bool(self._lost) or self._session.closed

    def _beat(self) -> None:
        """Say that we live; with the lock held.  Raises Gone."""
        if self._lost or self._done.is_set():
            return
        generation = self._session.generation
        try:
            self._session.touch(self.place_name, self._note)
        except Refused as error:
            if generation != self._generation:
                self._again()
            elif not self._between():
                self._lost = f"somebody released it: {error.what}"
        if not self._lost:
            self._generation = generation
        if self._partial and not self._lost:
            self._complete()
        # Ours, or somebody else's: either way nobody need wait for us any more.
        self._unreserve()

    def _between(self) -> bool:
        """Whether it is but another process of our owner's that acquires it anew (`_complete`)."""
        deadline, unreserved = Deadline(_ANEW_S), Deadline(_FREE_S)
        while not deadline.expired():
            place = self._session.places().get(self.place_name)
            if place is None or place.acquired not in ("", self._session.owner):
                return False
            if place.acquired:
                try:
                    self._session.touch(self.place_name, self._note)
                except Refused:
                    pass  # what was told is behind what is
                else:
                    return True
            elif not place.reservation and unreserved.expired():
                return False
            self._session.wait(_AGAIN_S)
        return False

    def _again(self) -> None:
        """After the coordinator came back: take it once more, before anybody else does."""
        if self._token:
            try:
                self._session.poll(self._token)  # or it would die while we try
            except Refused:
                self._token = ""  # forgotten, as all is
        try:
            self._session.acquire(self.place_name)
            self._session.touch(self.place_name, self._note)
            self._partial = True
            _LOG.warning("%s: the coordinator was restarted; acquired again", self.place_name)
        except Refused as error:
            try:
                # Another process of our owner's may have been quicker.
                self._session.touch(self.place_name, self._note)
            except Refused:
                if "Failed to acquire resources" in error.what:
                    # Not free yet by an exporter that is restarting, too: nobody else gets it.
                    raise Gone(error.what, where=error.where, cure=error.cure) from error
                now = self._session.places().get(self.place_name)
                taken = now.told() if now and now.acquired else error.what
                self._lost = f"taken by others while the coordinator restarted: {taken}"

    def _complete(self) -> None:
        """Exporters come back later than the coordinator, and what they export was not acquired
        with the place: do it anew.

        A reservation before all others' keeps it ours between release and acquisition.
        """
        place = self._session.places().get(self.place_name)
        if place is None or unmatched(place, self._session.exports()):
            return
        paths = {export.path for _, export in exports_of(place, self._session.exports())}
        if paths - set(place.resources):
            self._unreserve()  # of an attempt that failed
            self._token = self._session.reserve({"name": self.place_name}, prio=_FIRST).token
            try:
                self._session.release(self.place_name, self._session.owner)
                self._session.acquire(self.place_name)
                self._unreserve()
                self._session.touch(self.place_name, self._note)
            except LabError as error:
                self._generation = -1  # the next look acquires it again, by that reservation
                raise Gone(error.what, where=error.where, cure=error.cure) from error
        self._partial = False

    def _unreserve(self) -> None:
        """A reservation of ours that is left would keep the place from others for a minute."""
        try:
            if self._token:
                self._session.cancel(self._token)
        except Gone as error:
            _LOG.debug("the reservation is kept for now: %s", error)
            return
        except Refused as error:
            _LOG.debug("the reservation had expired: %s", error)
        self._token = ""
