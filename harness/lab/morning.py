"""The front page's news: changes of a night put together where they tell the same thing.

One deadlock that shows in forty tests on ten machines is one piece of news.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.lab.past import Result

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

    `signature` is "" where no finding tells it.  `since` is the first of the failures that last
    until now, `good` the last result that was none.
    """

    kind: str
    title: str
    sort: str
    signature: str
    known: tuple[str, ...]
    where: tuple[Where, ...]
    since: Result | None
    good: Result | None

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


def put_together(changes: Iterable[object]) -> list[News]:
    """In the order of HEADINGS, what concerns most tests first."""
    groups: dict[tuple[str, str], list[object]] = {}
    for change in changes:
        groups.setdefault(_key(change), []).append(change)
    order = list(HEADINGS)
    made = [_news(kind, several) for (kind, _), several in groups.items()]
    return sorted(made, key=lambda news: (order.index(news.kind), -len(news.where), news.title))
