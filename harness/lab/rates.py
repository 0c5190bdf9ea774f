"""Figures of things that happen now and then: a failure rate's interval, what is slower than usual.

Small samples, few assumptions: Clopper-Pearson for rates, median and MAD for durations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Rate", "Slower", "slower"]

# A duration is compared with at least so many earlier ones.
ENOUGH = 5
# It is slower when it lies above the median of those by all three: so many of their standard
# deviations, estimated as 1.4826 MAD and never taken for less than 2 % of the median; a quarter
# of the median; and what no person would look into, below.
DEVIATIONS = 5.0
SCALE = 1.4826
LEAST_SPREAD = 0.02
RATIO = 1.25
LEAST_S = {"tdr": 0.5, "recovery": 0.1, "fence": 0.005}
LEAST_OTHER_S = 0.1


@dataclass(frozen=True, slots=True)
class Rate:
    """`failed` of `runs`."""

    failed: int
    runs: int

    @property
    def value(self) -> float:
        """The share, 0 of nothing."""
        return self.failed / self.runs if self.runs else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper and Pearson's: in at least `confidence` of all experiments the true rate lies
        within, whatever it is (Biometrika 26, 1934).  (0, 1) of no runs."""
        tail = (1 - confidence) / 2
        low = 0.0
        if self.failed:
            # At this rate, so many failures or more have a chance of `tail`.
            low = _bisect(lambda p: 1 - self._at_most(self.failed - 1, p) < tail)
        high = 1.0
        if self.failed < self.runs:
            high = _bisect(lambda p: self._at_most(self.failed, p) > tail)
        return low, high

    def _at_most(self, failed: int, p: float) -> float:
        """The chance of at most `failed` failures at a rate of `p`: 0 < p < 1."""
        log_p, log_q = math.log(p), math.log1p(-p)
        n = self.runs
        ways = [
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            for k in range(failed + 1)
        ]
        chances = (math.exp(way + k * log_p + (n - k) * log_q) for k, way in enumerate(ways))
        return min(1.0, math.fsum(chances))

    def __str__(self) -> str:
        low, high = self.interval()
        return (
            f"{self.failed} of {self.runs} failed: {self.value:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}, Clopper-Pearson)"
        )


def _bisect(below: Callable[[float], bool]) -> float:
    """Where `below` turns from true to false between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Slower:
    """A duration, in seconds, that stands out: `usual` is the median of `runs` earlier ones."""

    what: str
    now: float
    usual: float
    runs: int

    def __str__(self) -> str:
        ratio = self.now / self.usual if self.usual else math.inf
        return f"{self.what} took {self.now:.3g} s, {ratio:.1f} times the median {self.usual:.3g} s"


def slower(what: str, now: Sequence[float], before: Sequence[float]) -> Slower | None:
    """Whether the durations of `now` stand out above those of `before`; None where they do not,
    or where there are too few to tell."""
    if not now or len(before) < ENOUGH:
        return None
    usual, here = median(before), median(now)
    spread = max(SCALE * median(abs(one - usual) for one in before), LEAST_SPREAD * usual)
    least = LEAST_S.get(what, LEAST_OTHER_S)
    limit = max(usual + DEVIATIONS * spread, RATIO * usual, usual + least)
    return Slower(what, here, usual, len(before)) if here > limit else None
