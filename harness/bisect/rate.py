"""An unknown rate: how often a kernel shows the finding, learnt from the runs themselves.

A prior over a grid of rates is integrated numerically; what is asked for is only the evidence
of so many bad and good runs, and the chance that the next one is bad.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.bisect.dag import Floats

__all__ = ["BAD", "GOOD", "Rate", "Tally", "entropy", "of_bad", "of_bad_after", "of_good"]

Tally = NDArray[np.intp]
# Numbers of bad and of good runs in one integer, so that they add and look up as one.
GOOD = 1
BAD = 4096


class Rate:
    """A rate that lies at one of `points` with the chances `weights`.

    Tallies are BAD for each bad run plus GOOD for each good one, fewer than 4096 of these.
    """

    def __init__(self, points: ArrayLike, weights: ArrayLike) -> None:
        self.points: Floats = np.asarray(points, dtype=np.float64)
        chances = np.asarray(weights, dtype=np.float64)
        with np.errstate(divide="ignore"):
            self._log: Floats = np.log(chances / chances.sum())
        self._hit, self._miss = np.log(self.points), np.log1p(-self.points)
        self._evidence: Floats = np.zeros((0, BAD))
        self._chance: dict[int, tuple[Floats, Floats]] = {}

    def evidence(self, tally: Tally) -> Floats:
        """Logarithm of the chance of just these runs, in their order."""
        self._reach(tally)
        found: Floats = self._evidence.take(tally)
        return found

    def chance(self, tally: Tally, runs: int = 1) -> tuple[Floats, Floats]:
        """Chance that of the next `runs` at least one is bad, after such runs; its entropy."""
        self._reach(tally)
        if runs not in self._chance:
            later = np.pad(self._evidence[:, runs:], ((0, 0), (0, runs)), mode="edge")
            chance = -np.expm1(later - self._evidence)
            self._chance[runs] = chance, entropy(chance)
        chance, doubt = self._chance[runs]
        return chance.take(tally), doubt.take(tally)

    def posterior(self, tally: int) -> Floats:
        """The chance of each point after such runs."""
        bad, good = divmod(tally, BAD)
        told = self._log + bad * self._hit + good * self._miss
        likely = np.exp(told - told.max())
        found: Floats = likely / likely.sum()
        return found

    def _reach(self, tally: Tally) -> None:
        """Make the tables as long as `tally` needs them."""
        rows = len(self._evidence)
        most = int(tally.max(initial=0)) // BAD
        if most < rows:
            return
        good = np.arange(BAD)[:, np.newaxis] * self._miss
        fresh = np.empty((max(8, most + 1 - rows, rows // 2), BAD))
        for row in range(len(fresh)):
            told = good + (self._log + (rows + row) * self._hit)
            top = told.max(axis=1)
            fresh[row] = top + np.log(np.exp(told - top[:, np.newaxis]).sum(axis=1))
        self._evidence = np.concatenate([self._evidence, fresh])
        self._chance.clear()


def entropy(chance: Floats) -> Floats:
    """Of coins with this chance, in bits."""
    inside = np.clip(chance, 1e-300, 1 - 1e-16)
    found: Floats = -(inside * np.log2(inside) + (1 - inside) * np.log1p(-inside) / np.log(2))
    return found


# Lower rates are not searched for: no lab waits a hundred runs for one answer.
LOWEST = 0.03
# A kernel that shows it at every run, but for what the lab itself may miss.
ALWAYS = 0.9995


# Earlier runs of a bad kernel say more of its rate than what is taken for granted from so many on.
_ENOUGH = 20


# Cached, as their tables take longer to fill than most searches take.
@cache
def of_bad(told: bool = False) -> Rate:
    """How often a bad kernel shows the finding: always, by some chance, else at any rate, small
    ones as likely as great ones (even in its logarithm).

    A search that was told nothing must doubt that it is always: what a flaky kernel shows along
    one way down always looks like some other culprit's doing.  One that was `told` enough must
    tell always from nearly always, which twenty runs in a row are too few to do.
    """
    often = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99) if told else ()
    always, nearly = (0.3, 0.3) if told else (0.05, 0.0)
    points = [*np.geomspace(LOWEST, 0.97, 48), *often, ALWAYS]
    any_rate = np.full(48, (1 - always - nearly) / 48)
    return Rate(points, [*any_rate, *(nearly / len(often) for _ in often), always])


def of_bad_after(runs: int) -> Rate:
    """As `of_bad`, where so many earlier runs of a bad kernel are told."""
    return of_bad(told=runs >= _ENOUGH)


@cache
def of_good(expected: float) -> Rate:
    """How often a good kernel shows it: about `expected`, or as often as a quarter or four
    times of that."""
    factors = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    return Rate(np.clip(expected * factors, 1e-6, 0.3), [1, 2, 4, 2, 1])
