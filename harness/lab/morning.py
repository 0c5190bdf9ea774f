"""The front page's news: changes of a night put together where they tell the same thing.

One deadlock that shows in forty tests on ten machines is one piece of news.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.lab.diff import Change
from harness.lab.past import Failing, Result, Sighting

__all__ = ["HEADINGS", "News", "Where", "put_together"]

# Kind of change: heading, what it means, whether it is open at once.
HEADINGS: dict[str, tuple[str, str, bool]] = {
    "new": ("New", "failed last night, did not before", True),
    "changed": ("Changed", "failed before too, but otherwise", True),
    "flaky": ("Newly flaky", "failed and passed on one kernel", True),
    "missing": ("Missing", "ran before, proved nothing last night", True),
    "slower": ("Slower", "recovery took longer than it used to", True),
    "fixed": ("Fixed", "failed before, passed last night", True),
    "still": ("Still failing", "as the night before", False),
    "known": ("Known", "failed as known-issues.toml says", False),
}


@dataclass(frozen=True, slots=True)
class Where:
    """One test on one target; `result` is the one to look at, where it ran."""

    test: str
    target: str
    result: Result | None


@dataclass(frozen=True, slots=True)
class News:
    """Changes of one kind with one finding, or one reason.

    `signature` is "" where no finding tells it, `why` what the title does not say.
    `since` is the first of the failures that last until now, `good` the last result that was none,
    `seen` what the history knows of the finding.
    """

    kind: str
    title: str
    sort: str
    signature: str
    why: str
    known: tuple[str, ...]
    where: tuple[Where, ...]
    since: Result | None
    good: Result | None
    seen: Sighting | None = None

    @property
    def outcome(self) -> str:
        """How the first of them ended."""
        result = self.where[0].result
        return result.outcome if result and self.kind != "missing" else "missing"

    @property
    def tests(self) -> list[str]:
        """Its tests, by name."""
        return sorted({one.test for one in self.where if one.test})

    @property
    def targets(self) -> list[str]:
        """Its targets, by name."""
        return sorted({one.target for one in self.where})

    @property
    def facts(self) -> list[str]:
        """On which kernel, since when, whether it is new to the lab, and what is known of it."""
        told = []
        result = self.where[0].result
        if self.since and self.kind in ("changed", "still", "known"):
            told.append(f"since {_day(self.since.started)} on {self.since.kernel}")
        elif result and self.kind != "missing":
            told.append(f"on {result.kernel}")
        if self.good and self.kind != "fixed":
            ran = result if self.kind != "missing" else None
            same = ran is not None and ran.build == self.good.build
            kernel = "this very kernel" if same else self.good.kernel
            told.append(f"last good {_day(self.good.started)} on {kernel}")
        if (seen := self._earlier()) is not None:
            others = [target for target in seen.targets if target not in self.targets]
            where = f", on {', '.join(others[:4])}" if others else ""
            told.append(f"first seen {_day(seen.first)} on {seen.first_kernel}{where}")
        return [*told, *(f"known as {name}" for name in self.known)]

    def _earlier(self) -> Sighting | None:
        """What is known of a finding that is older than the night that is told of."""
        nights = {one.result.night for one in self.where if one.result}
        new = self.kind in ("new", "changed", "flaky")
        return self.seen if new and self.seen and self.seen.first_night not in nights else None


def _day(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}"


def put_together(changes: Iterable[Change], sightings: Iterable[Sighting] = ()) -> list[News]:
    """In the order of HEADINGS, what concerns most tests first.  `sightings` of their findings."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.kind, _identity(change)), []).append(change)
    order = list(HEADINGS)
    seen = {sighting.signature: sighting for sighting in sightings}
    made = [_news(kind, several, seen) for (kind, _), several in groups.items()]
    return sorted(made, key=lambda news: (order.index(news.kind), -len(news.where), news.title))


def _identity(change: Change) -> str:
    """What changes that tell the same thing have in common."""
    failing = _worst(change)
    if failing is not None:
        return failing.signature
    if change.kind == "slower":
        return change.target
    return change.why if change.kind != "fixed" else f"{change.target} {change.test}"


def _worst(change: Change) -> Failing | None:
    """The finding that tells the change: of what is fixed, the one that is no more."""
    if change.kind in ("missing", "slower"):
        return None
    told = change.before if change.kind == "fixed" else change.now
    found = told.failings if told else ()
    return next((one for one in found if one.severity == "fail"), None)


def _news(kind: str, several: Sequence[Change], seen: Mapping[str, Sighting]) -> News:
    first = several[0]
    failing = _worst(first)
    known = [name for change in several if change.now for name in change.now.known]
    sinces = [change.since for change in several if change.since]
    goods = [change.before for change in several if change.before and not change.before.bad]
    return News(
        kind=kind,
        title=failing.title if failing else first.why,
        sort=failing.kind if failing else "",
        signature=failing.signature if failing else "",
        why=first.why if failing and not first.why.startswith(failing.title) else "",
        known=tuple(dict.fromkeys(known)),
        where=tuple(Where(c.test, c.target, c.now or c.before) for c in several),
        since=min(sinces, key=lambda result: result.started, default=None),
        good=max(goods, key=lambda result: result.started, default=None),
        seen=seen.get(failing.signature) if failing else None,
    )
