"""The places that a dispatcher has for its sessions, all with one connection.

What is done is written at the place as tags, before it is given back, so that no other dispatcher
of the same night finds it free and not done.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Coordinator, Target
from harness.labgrid.hold import ACTS_FOR, PlaceHold, own_name
from harness.labgrid.places import Place, Watch, fitting
from harness.labgrid.quest import GRACE_S, Held
from harness.labgrid.session import Gone, Refused, Session

__all__ = ["PlaceClaims"]

_LOG = logging.getLogger(__name__)
# Tags: the name of what several do together, and on whose host it was done.
_DONE = "tdrlab_done"
_BY = "tdrlab_by"
# Seconds between attempts at a place that was refused, and to reach a coordinator at all.
_AGAIN_S = 2.0
_MARK_S = 30.0

_Answer = tuple[Literal["ours", "busy", "done", "failed"], str, Mapping[str, str]]


class PlaceClaims:
    """Places of `targets`, which a session is told of by its environment."""

    def __init__(
        self, targets: Mapping[str, Target], spec: Coordinator, share: str, what: str
    ) -> None:
        """`share` names what several dispatchers do together, "" if each works alone.

        Raises UsageError where labgrid is not installed.
        """
        self.targets = targets
        self._spec = spec
        self._share = share
        self._what = what
        self._session = Session(spec.address, own_name())
        self._watch = Watch(spec.stale_s)
        self._holds: dict[str, PlaceHold] = {}
        self._last: dict[str, tuple[int, Deadline, _Answer]] = {}
        self._away: dict[str, Deadline] = {}
        # After a restart, until when owners may take theirs again, and what connection that was.
        self._grace = Deadline(0.0)
        self._seen = 0
        # What this dispatcher did: a coordinator saves its places now and then only.
        self._marks: dict[str, PlaceHold] = {}
        self._marked_in = 0

    def ask(self, target: str) -> _Answer:
        """Claim it: what became of that, who else has it or why it fails, what the environment of
        its session needs."""
        env = {ACTS_FOR: self._session.owner}
        if target in self._holds:
            return "ours", "", env
        version = self._session.version
        if target in self._last:
            seen, again, answer = self._last[target]
            if seen == version and not again.expired():
                return answer  # nothing was told since
        answer = self._answer(target, env)
        self._last[target] = version, Deadline(_AGAIN_S), answer
        return answer

    def end(self, target: str, *, done: bool) -> None:
        """Its session has ended; `done` is written down before the place is free."""
        held = self._holds.pop(target, None)
        if held is None:
            return
        if done and self._share and not held.lost():
            self._mark(held)
            self._marks[target] = held
        held.release()

    def close(self) -> None:
        """Give back what is left, and leave."""
        for held in self._holds.values():
            held.release()
        self._holds.clear()
        self._session.close()

    def _answer(self, target: str, env: Mapping[str, str]) -> _Answer:
        try:
            answer = self._claim(target, env)
        except UsageError as error:
            return "failed", str(error), {}
        except LabError as error:
            # A coordinator or an exporter that is away comes back, or not; people are waited for.
            since = self._away.setdefault(target, Deadline(self._spec.patience_s))
            return ("failed" if since.expired() else "busy"), error.what, {}
        self._away.pop(target, None)
        return answer

    def _claim(self, target: str, env: Mapping[str, str]) -> _Answer:
        self._session.reach(Deadline(_AGAIN_S))
        if self._session.generation != self._seen:
            self._grace = Deadline(GRACE_S if self._seen else 0.0)
            self._seen = self._session.generation
        if not self._grace.expired():
            return "busy", "the coordinator was restarted", {}
        self._remember()
        filters = self.targets[target].filters
        fit = fitting(self._session.places().values(), filters)
        done = [place for place in fit if self._share and place.tags.get(_DONE) == self._share]
        if done:
            return "done", done[0].tags.get(_BY, "another dispatcher"), {}
        held = [place for place in fit if place.acquired]
        if held and len(held) == len(fit):
            now, wall = time.monotonic(), time.time()
            self._watch.see(held, now)
            if not any(self._dead(place, now, wall) for place in held):
                return "busy", "; ".join(place.told() for place in held), {}
        try:
            # Not longer: sessions are looked after by the thread that asks.
            spec = msgspec.structs.replace(self._spec, patience_s=_AGAIN_S)
            got = PlaceHold.take(self._session, filters, spec, self._what, watch=self._watch)
        except Held as error:
            return "busy", error.what, {}
        # Between our look and our turn another may have done it.
        place = self._session.places().get(got.place_name)
        if place is None or (self._share and place.tags.get(_DONE) == self._share):
            got.release()
            if place is None:
                return "busy", f"{got.place_name} was deleted", {}  # the next look tells more
            return "done", place.tags.get(_BY, "another dispatcher"), {}
        self._holds[target] = got
        return "ours", got.taken_over, env

    def _dead(self, place: Place, now: float, wall: float) -> bool:
        return self._spec.take_over == "dead" and self._watch.dead(place, now, wall)

    def _mark(self, held: PlaceHold) -> None:
        deadline = Deadline(_MARK_S)
        while True:
            try:
                held.mark({_DONE: self._share, _BY: socket.gethostname()})
                self._marked_in = self._session.generation
                return
            except Refused as error:
                _LOG.warning("nobody is told that %s is done: %s", held.place_name, error.what)
                return
            except Gone as error:
                try:
                    self._session.reach(deadline)
                except Gone:
                    _LOG.warning("nobody is told that %s is done: %s", held.place_name, error)
                    return

    def _remember(self) -> None:
        """A coordinator that was killed may have forgotten what is done."""
        if self._marks and self._marked_in != self._session.generation:
            places = self._session.places()
            for held in self._marks.values():
                place = places.get(held.place_name)
                # One that was deleted meanwhile is nobody's to test, and no trouble of others.
                if place is not None and place.tags.get(_DONE) != self._share:
                    self._mark(held)
            self._marked_in = self._session.generation
