"""What a coordinator knows, as facts: places, what is exported, reservations; and what follows.

Pure: who is before us in the queue, whose place it is and since when, and whether an owner that
says nothing any more is dead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

__all__ = [
    "Export",
    "Match",
    "Place",
    "Standing",
    "Watch",
    "exports_of",
    "fitting",
    "note_of",
    "position",
    "unmatched",
]

# A note's form; what else stands among those allowed on a place are users.
_NOTE = re.compile(r"(?P<owner>\S+/\S+) since (?P<since>\S+): (?P<what>.*)", re.DOTALL)
# A note is shown to people and kept by the coordinator for as long as the place is held.
_LONGEST = 200


class Match(Struct, frozen=True):
    """A pattern of a place: the exports it takes; `rename` is what the place calls them."""

    exporter: str
    group: str
    cls: str
    name: str = ""
    rename: str = ""

    def takes(self, export: Export) -> bool:
        """Whether it is for `export`; each part is a shell pattern."""
        pairs = (
            (export.exporter, self.exporter),
            (export.group, self.group),
            (export.cls, self.cls),
            (export.name, self.name or "*"),
        )
        return all(fnmatchcase(word, pattern) for word, pattern in pairs)

    def told(self) -> str:
        """As labgrid-client writes it."""
        return "/".join(filter(None, (self.exporter, self.group, self.cls, self.name)))


class Export(Struct, frozen=True):
    """A resource that an exporter offers."""

    exporter: str
    group: str
    cls: str
    name: str
    params: Mapping[str, object] = {}
    extra: Mapping[str, object] = {}
    avail: bool = False

    @property
    def path(self) -> str:
        """As the coordinator writes it."""
        return "/".join((self.exporter, self.group, self.cls, self.name))


class Place(Struct, frozen=True):
    """A place: what may be acquired."""

    name: str
    tags: Mapping[str, str] = {}
    matches: tuple[Match, ...] = ()
    acquired: str = ""
    """Whose it is, "" nobody's."""
    allowed: tuple[str, ...] = ()
    changed: float = 0.0
    """By the coordinator's clock, seconds since the epoch."""
    reservation: str = ""
    resources: tuple[str, ...] = ()
    """Paths of the exports that were acquired with it."""

    def fits(self, filters: Mapping[str, str]) -> bool:
        """Whether a reservation by these tags may get it; "name" is the place's own."""
        tags = {**self.tags, "name": self.name}
        return all(tags.get(key) == value for key, value in filters.items())

    def note(self) -> str:
        """Since when its owner has it and what for, where that is a harness; else ""."""
        for word in self.allowed:
            found = _NOTE.fullmatch(word)
            if found and found["owner"] == self.acquired:
                return word
        return ""

    def told(self) -> str:
        """Who holds it, in words."""
        if not self.acquired:
            return f"{self.name}: free"
        return f"{self.name}: {self.note() or self.acquired}"


class Standing(Struct, frozen=True):
    """A reservation as the coordinator told it."""

    token: str
    owner: str
    state: str
    """waiting, allocated, acquired, expired, invalid."""
    filters: Mapping[str, str] = {}
    prio: float = 0.0
    created: float = 0.0
    place: str = ""


class Watch:
    """Who still says that he lives.

    A harness touches its place several times in `stale_s`, so that `changed` moves on.  Owners
    that are not harnesses (labgrid-client) do not, and are never dead.
    """

    def __init__(self, stale_s: float) -> None:
        self._stale_s = stale_s
        self._seen: dict[str, tuple[str, float, float]] = {}

    def see(self, places: Iterable[Place], now: float) -> None:
        """How the places stand at `now`, of a clock of this host that nobody sets."""
        for place in places:
            before = self._seen.get(place.name)
            if before is None or before[:2] != (place.acquired, place.changed):
                self._seen[place.name] = (place.acquired, place.changed, now)

    def dead(self, place: Place, now: float, wall: float) -> bool:
        """Whether its owner is: watched in silence for `stale_s`; for half of it is enough where
        by the clocks (`wall`: ours) it has been silent for longer."""
        still = self._still(place, now)
        return bool(place.note()) and (
            still >= self._stale_s
            or (still >= self._stale_s / 2 and wall - place.changed >= self._stale_s)
        )

    def suspect(self, place: Place, now: float, wall: float) -> bool:
        """Whether watching it for a little while will tell that its owner is dead, or not."""
        return (
            bool(place.note())
            and wall - place.changed >= self._stale_s
            and self._still(place, now) < self._stale_s
        )

    def _still(self, place: Place, now: float) -> float:
        acquired, changed, since = self._seen.get(place.name, ("", 0.0, now))
        return now - since if (acquired, changed) == (place.acquired, place.changed) else 0.0


def note_of(owner: str, since: str, what: str) -> str:
    """What an owner leaves at its place; `since` is a time without blanks."""
    return f"{owner} since {since}: {' '.join(what.split())}"[:_LONGEST]


def fitting(places: Iterable[Place], filters: Mapping[str, str]) -> list[Place]:
    """The places that a reservation may get, by name."""
    return sorted((p for p in places if p.fits(filters)), key=lambda place: place.name)


def exports_of(place: Place, exports: Iterable[Export]) -> list[tuple[str, Export]]:
    """What a place is made of now, each with what the place calls it."""
    found = []
    for export in exports:
        match = next((match for match in place.matches if match.takes(export)), None)
        if match is not None:
            found.append((match.rename or export.name, export))
    return sorted(found, key=lambda pair: pair[0])


def unmatched(place: Place, exports: Iterable[Export]) -> list[str]:
    """Patterns for which nothing is exported: its exporter is away, or the pattern is wrong."""
    known = list(exports)
    return [m.told() for m in place.matches if not any(m.takes(export) for export in known)]


def position(
    mine: Standing, others: Iterable[Standing], places: Iterable[Place]
) -> tuple[int, int]:
    """Our number in the queue (1: next) and its length, of those who wait for a place of ours.

    labgrid's order: priority, then age (remote/coordinator.py, schedule_reservations()).
    """
    wanted = {place.name for place in places if place.fits(mine.filters)}
    known = list(places)
    queue = [mine]
    for other in others:
        rival = any(p.name in wanted and p.fits(other.filters) for p in known)
        if other.token != mine.token and other.state == "waiting" and rival:
            queue.append(other)
    queue.sort(key=lambda one: (-one.prio, one.created, one.token))
    return queue.index(mine) + 1, len(queue)
