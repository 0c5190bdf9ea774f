"""How a search would go: many at once against a simulated lab, by the very code that searches.

For `lab bisect --dry-run` and `lab bench bisect`.  A commit that gives no verdict never gives one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.bisect.dag import Dag, Floats
from harness.bisect.policy import dim, enough, score, settle
from harness.bisect.posterior import Posterior
from harness.bisect.rate import Rate

__all__ = ["Forecast", "Lab", "forecast"]

# A search that has not ended by then is given up.
MOST_RUNS = 3000
# Bits below which no run is worth its while: what is left cannot be told apart.
LEAST_BITS = 1e-4


@dataclass(frozen=True)
class Lab:
    """What is simulated: a culprit and broken commits for each search, and how runs answer."""

    culprit: NDArray[np.intp]
    """(searches)"""
    broken: NDArray[np.bool_]
    """(searches, commits): no run there gives a verdict."""
    shows: float
    """Chance that a run of a bad kernel shows the finding."""
    unrelated: float
    """Chance that any run seems to show it."""

    @classmethod
    def draw(
        cls,
        dag: Dag,
        searches: int,
        shows: float,
        unrelated: float,
        broken: float,
        random: np.random.Generator,
    ) -> Lab:
        """Culprits anywhere; each commit is `broken` with that chance."""
        culprit = random.integers(0, len(dag), searches)
        return cls(culprit, random.random((searches, len(dag))) < broken, shows, unrelated)

    def run(
        self, dag: Dag, searches: NDArray[np.intp], commits: NDArray[np.intp],
        random: np.random.Generator,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Whether a run of one commit in each of `searches` shows the finding."""
        having = dag.rows(commits)[np.arange(len(commits)), self.culprit[searches]]
        chance = np.where(having, self.shows + (1 - self.shows) * self.unrelated, self.unrelated)
        shown: NDArray[np.bool_] = random.random(len(commits)) < chance
        return shown


@dataclass(frozen=True)
class Forecast:
    """How the searches went, (searches) each."""

    runs: NDArray[np.intp]
    """Runs that gave a verdict."""
    barren: NDArray[np.intp]
    """Attempts that gave none."""
    sure: NDArray[np.bool_]
    """Whether it ended with the confidence asked for."""
    right: NDArray[np.bool_]
    """Whether the culprit is in the answer."""
    size: NDArray[np.intp]
    """Commits in the answer."""


def forecast(
    dag: Dag,
    lab: Lab,
    bad: Rate,
    good: Rate,
    random: np.random.Generator,
    *,
    confidence: float = 0.99,
    most_runs: int = MOST_RUNS,
    prior: Floats | None = None,
    told: int = 0,
    told_bad: int | None = None,
) -> Forecast:
    """Search for every culprit of `lab`, as if each run cost the same.

    `told`: earlier runs of a kernel that is known to be bad, at least one of which showed it;
    `told_bad`: how many did, whatever the lab's own rate is.
    """
    searches, commits = lab.broken.shape
    weighed = np.ones(commits) if prior is None else prior
    posterior = Posterior(dag, bad, good, weighed, searches)
    if told:
        shown = np.maximum(1, random.binomial(told, lab.shows, searches))
        if told_bad is not None:
            shown[:] = told_bad
        posterior.tell(slice(None), shown, told - shown)
    hope = np.ones((searches, commits))
    barren = np.zeros((searches, commits), dtype=np.bool_)
    labels: list[NDArray[np.intp] | None] = [None] * searches
    proven = np.zeros((searches, commits), dtype=np.bool_)
    done = Forecast(
        runs=np.zeros(searches, dtype=np.intp),
        barren=np.zeros(searches, dtype=np.intp),
        sure=np.zeros(searches, dtype=np.bool_),
        right=np.zeros(searches, dtype=np.bool_),
        size=np.zeros(searches, dtype=np.intp),
    )
    active = np.arange(searches)
    while len(active):
        weights = posterior.weights(active)
        settled = settle(weights, [labels[one] for one in active])
        bits = score(posterior, weights, hope[active], active)
        chosen = bits.argmax(axis=-1)
        # Little hope is a reason to go elsewhere, not to give up.
        best = (bits / np.maximum(hope[active], 1e-9))[np.arange(len(active)), chosen]
        sure = enough(posterior, weights, settled, confidence, active)
        over = sure | (best < LEAST_BITS) | (done.runs[active] >= most_runs)
        for where in np.flatnonzero(over):
            one = active[where]
            done.sure[one] = sure[where]
            done.right[one] = lab.culprit[one] in settled.members[where]
            done.size[one] = len(settled.members[where])
        active, chosen = active[~over], chosen[~over]
        blank = lab.broken[active, chosen]
        for one, commit in zip(active[blank], chosen[blank], strict=True):
            barren[one, commit], hope[one, commit] = True, 0.0
            labels[one] = dag.classes(barren[one])
            dim(dag, hope[one], int(commit), proven[one])
        done.barren[active[blank]] += 1
        ran, commit = active[~blank], chosen[~blank]
        hope[ran, commit], proven[ran, commit] = 1.0, True
        if len(ran):
            posterior.record(ran, commit, lab.run(dag, ran, commit, random))
        done.runs[ran] += 1
    return done
