"""What to run next, and when it is enough.

Next is the commit whose run promises the most bits about the culprit for each second that it
costs; enough is one candidate, or candidates that nothing tells apart, as likely as was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.bisect.dag import Dag, Floats
from harness.bisect.posterior import Posterior, Which

__all__ = ["ALL", "Price", "Settled", "burst", "dim", "enough", "score", "settle"]

ALL = slice(None)
# As many runs of a commit are looked ahead to: one alone may never pay for its build.
_BURSTS = (1, 2, 4, 8, 16, 32)
# A commit this many steps from one without a verdict may well be broken like it.
_SHADOW = 4
# Below this part of its runs a bad kernel shows the finding rarely.
_RARE = 0.2


@dataclass(frozen=True)
class Price:
    """Seconds that a run of each commit costs: what must be done once before it, and each time."""

    before: Floats
    """(commits): the build, 0 where it is there already."""
    each: float
    """The test itself."""
    boot: float = 0.0
    """A boot, which serves up to `tries` runs."""
    tries: int = 1

    def of(self, runs: int) -> Floats:
        """Of so many runs of each commit."""
        return self.before + self.boot * -(-runs // self.tries) + self.each * runs

    def bursts(self) -> tuple[int, ...]:
        """How many runs at once may pay."""
        once = float(self.before.max()) <= self.each + self.boot and self.tries == 1
        return _BURSTS[:1] if once else _BURSTS


@dataclass(frozen=True)
class Settled:
    """The most likely class of candidates of each search."""

    chance: Floats
    """(searches): its chance."""
    members: list[NDArray[np.intp]]
    """Its candidates."""


def score(
    posterior: Posterior,
    weights: Floats,
    hope: Floats,
    searches: Which = ALL,
    price: Price | None = None,
) -> Floats:
    """Bits a second for a run of each commit, (searches, commits).

    `hope` is the chance that a run there gives a verdict at all, 0 where it is known not to.
    Without a `price` all cost one second.
    """
    if price is None:
        return posterior.information(weights, searches) * hope
    # Setting up a commit pays off over all the runs that it then gets.
    best = np.zeros_like(weights)
    for runs in price.bursts():
        bits = posterior.information(weights, searches, runs)
        np.maximum(best, bits / price.of(runs), out=best)
    return best * hope


def burst(posterior: Posterior, weights: Floats, commit: int, price: Price) -> int:
    """How many runs of `commit` to make in its boot, of the first search: at most the price's
    tries; they end with the first that shows it."""
    best = max(
        price.bursts(),
        key=lambda runs: (
            posterior.information(weights, ALL, runs)[0, commit] / price.of(runs)[commit]
        ),
    )
    return min(best, price.tries)


def settle(weights: Floats, labels: Sequence[NDArray[np.intp] | None]) -> Settled:
    """The most likely class of each search; `labels` as Dag.classes gave them, None where every
    candidate is a class of its own."""
    tops = weights.argmax(axis=-1)
    chance = weights[np.arange(len(weights)), tops]
    members = [np.array([top]) for top in tops]
    for search, mine in enumerate(labels):
        if mine is not None:
            sums = np.bincount(mine, weights=weights[search])
            chance[search] = sums.max()
            members[search] = np.flatnonzero(mine == sums.argmax())
    return Settled(chance, members)


def enough(
    posterior: Posterior,
    weights: Floats,
    settled: Settled,
    confidence: float,
    searches: Which = ALL,
) -> NDArray[np.bool_]:
    """Whether each search is as sure as was asked for.

    The rarer bad kernels show it, the less doubt is allowed: the prior over rates is right on the
    whole, but for a rate as low as that it is a little too sure.
    """
    shown = posterior.shown(weights.argmax(axis=-1), searches)
    allowed = (1 - confidence) * np.clip(shown / _RARE, 0.25, 1.0)
    found: NDArray[np.bool_] = settled.chance >= 1 - allowed
    return found


def dim(dag: Dag, hope: Floats, commit: int, proven: NDArray[np.bool_]) -> None:
    """After a run of `commit` without a verdict: less hope for those around it that are not
    `proven`.  A break lasts for some commits; from four steps on it is no reason to stay away."""
    for other, distance in dag.near(commit, _SHADOW).items():
        if distance and not proven[other]:
            hope[other] *= 1 - 0.5**distance
