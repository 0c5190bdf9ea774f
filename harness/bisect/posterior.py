"""What the runs so far say of each candidate: the chance that it is the culprit.

For a candidate only four numbers count: bad and good runs of kernels that have it, and of those
that do not.  Arrays carry a leading axis of searches, so that a simulation runs a thousand at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.bisect.dag import Dag, Floats
from harness.bisect.rate import BAD, GOOD, Rate, Tally, entropy

__all__ = ["Posterior"]

Which = NDArray[np.intp] | slice
ALL = slice(None)


class Posterior:
    """Of one DAG, for several searches at once."""

    def __init__(self, dag: Dag, bad: Rate, good: Rate, prior: Floats, searches: int = 1) -> None:
        """`bad` and `good`: how often kernels with and without the culprit show the finding;
        `prior`: the candidates' weights before any run."""
        self.dag = dag
        self.bad, self.good = bad, good
        with np.errstate(divide="ignore"):
            self._prior: Floats = np.log(prior / prior.sum())
        # Runs of kernels that have the candidate, and of all.
        self._with: Tally = np.zeros((searches, len(dag)), dtype=np.intp)
        self._all: Tally = np.zeros((searches, 1), dtype=np.intp)

    def tell(self, searches: Which, bad: NDArray[np.intp], good: NDArray[np.intp]) -> None:
        """Runs of a kernel that has every candidate, before the search: of them only the rate
        of bad kernels is learnt."""
        known = (bad * BAD + good * GOOD)[:, np.newaxis]
        self._with[searches] += known
        self._all[searches] += known

    def record(self, searches: Which, commits: NDArray[np.intp], shown: NDArray[np.bool_]) -> None:
        """One run in each of `searches`, of one commit each, that showed the finding or not."""
        run = np.where(shown, BAD, GOOD)[:, np.newaxis]
        self._with[searches] += self.dag.rows(commits) * run
        self._all[searches] += run

    def weights(self, searches: Which = ALL) -> Floats:
        """The chance of each candidate, (searches, commits)."""
        having = self._with[searches]
        told = self._prior + self.bad.evidence(having)
        told += self.good.evidence(self._all[searches] - having)
        told -= told.max(axis=-1, keepdims=True)
        likely = np.exp(told, out=told)
        likely /= likely.sum(axis=-1, keepdims=True)
        return likely

    def information(self, weights: Floats, searches: Which = ALL, runs: int = 1) -> Floats:
        """Bits that `runs` runs of each commit are expected to tell of the culprit: whether one
        of them is bad.  `weights` as `weights` gave them."""
        having = self._with[searches]
        with_it, with_doubt = self.bad.chance(having, runs)
        without, without_doubt = self.good.chance(self._all[searches] - having, runs)
        # I(culprit; run) = H(run) - H(run | culprit), each a sum over candidates.
        shows = self._mixed(weights * with_it, weights * without)
        doubt = self._mixed(weights * with_doubt, weights * without_doubt)
        found: Floats = np.maximum(0.0, entropy(shows) - doubt)
        return found

    def shown(self, commits: NDArray[np.intp], searches: Which = ALL) -> Floats:
        """The part of the runs of kernels with a candidate that were bad, one candidate of each
        search; 1 where there were none."""
        having = self._with[searches]
        bad, good = np.divmod(having[np.arange(len(having)), commits], BAD)
        found: Floats = (bad + 1) / (bad + good + 1)
        return found

    def rate(self, weights: Floats) -> Floats:
        """The chance of each point of the bad kernels' rate, of the first search."""
        kinds, where = np.unique(self._with[0], return_inverse=True)
        chances = np.bincount(where.reshape(-1), weights=weights[0])
        each = [self.bad.posterior(int(tally)) for tally in kinds]
        found: Floats = np.asarray(chances @ np.array(each), dtype=np.float64)
        return found

    def _mixed(self, with_it: Floats, without: Floats) -> Floats:
        """For each commit: `with_it` over its ancestors and itself, `without` over all others."""
        found: Floats = self.dag.sums(with_it - without) + without.sum(axis=-1, keepdims=True)
        return found
