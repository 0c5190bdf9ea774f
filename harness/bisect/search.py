"""One search: what has been run, what to run next, and what is known of the culprit.

Pure and deterministic: the same answers in the same order lead to the same questions, so that a
search is resumed by replaying its journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.bisect.dag import Dag, Floats
from harness.bisect.policy import Price, burst, dim, enough, score, settle
from harness.bisect.posterior import Posterior
from harness.bisect.rate import Rate, of_bad_after, of_good

__all__ = ["Answer", "Assumed", "Kind", "Search"]

# What one attempt at a commit gave: the finding; none of it; another failure; no verdict of a run;
# and no kernel at all, which no second attempt changes.
Kind = Literal["bad", "good", "other", "none", "unbuildable"]
# A commit that gave nothing usable so often in a row is not asked again.
_PATIENCE = 3
# Bits below which no run is worth its while: what is left cannot be told apart.
_LEAST_BITS = 1e-4


@dataclass(frozen=True)
class Assumed:
    """What is taken as given before the first run."""

    confidence: float = 0.99
    # Chance that a good kernel's run shows the finding all the same.
    unrelated: float = 0.005
    # Earlier runs of a bad kernel: how many, and how many of them showed it.
    seen: int = 0
    seen_bad: int = 0

    def rate(self) -> Rate:
        """How often bad kernels show it, before the search."""
        return of_bad_after(self.seen)


@dataclass(frozen=True)
class Answer:
    """What is known of the culprit."""

    chances: Floats
    """Of each commit."""
    members: tuple[int, ...]
    """The most likely commits that nothing tells apart; where it is not sure, as many of the most
    likely ones as together reach the confidence."""
    chance: float
    """Of them together."""
    sure: bool
    rate: tuple[float, float, float]
    """How often bad kernels show the finding: the middle, and where 90 % of the chance lies."""


class Search:
    """The commits of one range and what their runs said."""

    def __init__(self, dag: Dag, assumed: Assumed) -> None:
        self.dag = dag
        self.assumed = assumed
        self._posterior = Posterior(
            dag, assumed.rate(), of_good(assumed.unrelated), np.ones(len(dag))
        )
        if assumed.seen:
            bad = np.array([assumed.seen_bad])
            self._posterior.tell(slice(None), bad, np.array([assumed.seen]) - bad)
        self._hope = np.ones((1, len(dag)))
        self._proven = np.zeros(len(dag), dtype=np.bool_)
        self._barren = np.zeros(len(dag), dtype=np.bool_)
        self._vain: Counter[int] = Counter()
        self.given: list[tuple[int, Kind]] = []
        """Every answer, in order."""

    def record(self, commit: int, kind: Kind) -> None:
        """One attempt at `commit` and what it gave."""
        self.given.append((commit, kind))
        if kind in ("bad", "good"):
            self._vain[commit] = 0
            self._proven[commit], self._hope[0, commit] = True, 1.0
            self._posterior.record(slice(None), np.array([commit]), np.array([kind == "bad"]))
            return
        self._vain[commit] += 1
        self._hope[0, commit] /= 2
        if kind == "unbuildable" or (self._vain[commit] >= _PATIENCE and not self._proven[commit]):
            self._barren[commit], self._hope[0, commit] = True, 0.0
            dim(self.dag, self._hope[0], commit, self._proven)

    def next(self, price: Price | None = None, without: Sequence[int] = ()) -> int | None:
        """The commit to run, `without` some; None when it is sure, or no run would tell more."""
        weights = self._posterior.weights()
        settled = settle(weights, self._labels())
        if enough(self._posterior, weights, settled, self.assumed.confidence)[0]:
            return None
        gains = score(self._posterior, weights, self._hope, price=price)[0]
        gains[self._posterior.information(weights)[0] < _LEAST_BITS] = 0.0
        gains[list(without)] = 0.0
        best = int(gains.argmax())
        return best if gains[best] > 0.0 else None

    def tries(self, price: Price, commit: int) -> int:
        """How many runs of `commit` to make in one boot."""
        return burst(self._posterior, self._posterior.weights(), commit, price)

    def ahead(self, price: Price | None, commit: int) -> list[int]:
        """What would come after `commit`: if it is bad, if it is good, if it gives nothing."""
        found: list[int] = []
        kinds: tuple[Kind, ...] = ("bad", "good", "unbuildable")
        for kind in kinds:
            later = self._copy()
            later.record(commit, kind)
            following = later.next(price)
            if following is not None and following not in (commit, *found):
                found.append(following)
        return found

    def answer(self) -> Answer:
        """As the runs so far have it."""
        weights = self._posterior.weights()
        settled = settle(weights, self._labels())
        sure = bool(enough(self._posterior, weights, settled, self.assumed.confidence)[0])
        if sure:
            members, chance = settled.members[0], float(settled.chance[0])
        else:
            order = np.argsort(-weights[0], kind="stable")
            together = np.cumsum(weights[0][order])
            count = int(np.searchsorted(together, self.assumed.confidence)) + 1
            members = np.sort(order[:count])
            chance = float(weights[0][members].sum())
        shares = np.cumsum(self._posterior.rate(weights))
        points = self._posterior.bad.points
        low, middle, high = (
            float(points[min(int(np.searchsorted(shares, part)), len(points) - 1)])
            for part in (0.05, 0.5, 0.95)
        )
        return Answer(
            chances=weights[0],
            members=tuple(int(one) for one in members),
            chance=min(1.0, chance),
            sure=sure,
            rate=(middle, low, high),
        )

    def bits(self) -> float:
        """What is still unknown of the culprit, in bits."""
        weights = self._posterior.weights()[0]
        likely = weights[weights > 0]
        return float(-(likely * np.log2(likely)).sum())

    def barren(self) -> list[int]:
        """Commits that are not asked any more."""
        return [int(one) for one in np.flatnonzero(self._barren)]

    def _labels(self) -> list[np.ndarray[tuple[int, ...], np.dtype[np.intp]] | None]:
        return [self.dag.classes(self._barren) if self._barren.any() else None]

    def _copy(self) -> Search:
        again = Search(self.dag, self.assumed)
        for commit, kind in self.given:
            again.record(commit, kind)
        return again
