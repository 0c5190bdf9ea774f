"""What else finds a culprit: `git bisect run` with repeats, and git-bayesect, on a simulated lab.

git's choice is its own rule: of the commits that may still be it, the one whose ancestors among
them come nearest to half.  A commit without a verdict is passed over for the next best, where git
itself goes further away; that is to git's favour.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.bisect.dag import Dag
from harness.bisect.forecast import Lab
from harness.errors import LabError

__all__ = ["Played", "Repeat", "bayesect", "best_repeat", "git_bisect", "repeats"]

# Most runs of one commit that a fixed repeat is tried with.
_MOST = 400


@dataclass(frozen=True)
class Repeat:
    """Each commit runs up to `runs` times and is bad when `needed` of them are; it stops as soon
    as that is decided."""

    runs: int
    needed: int

    def wrong(self, chance: float, bad: bool) -> float:
        """Chance to misjudge a commit whose runs are bad with `chance`."""
        fewer = float(_at_most(chance)[self.runs, self.needed - 1])
        return fewer if bad else 1 - fewer

    def expected(self, chance: float) -> float:
        """Runs that one commit takes."""
        ran = np.arange(self.runs)
        # Undecided after so many: fewer bad ones than needed, and not too many good ones.
        below = ran - (self.runs - self.needed) - 1
        table = _at_most(chance)
        early = np.where(below >= 0, table[ran, np.maximum(below, 0)], 0.0)
        return float((table[ran, self.needed - 1] - early).sum())


@dataclass(frozen=True)
class Played:
    """How the searches went."""

    runs: float
    """Mean number of them that gave a verdict."""
    right: float
    """Part of the searches whose answer holds the culprit."""
    sure: float = 1.0
    """Part that ended with an answer at all."""


@cache
def _at_most(chance: float) -> NDArray[np.float64]:
    """For each number of runs, by k: the chance that at most k of them are bad."""
    exactly = np.zeros((_MOST + 1, _MOST + 1))
    exactly[0, 0] = 1.0
    for runs in range(_MOST):
        exactly[runs + 1] = exactly[runs] * (1 - chance)
        exactly[runs + 1, 1:] += exactly[runs, :-1] * chance
    return exactly.cumsum(axis=1)


def repeats(shows: float, unrelated: float, steps: float) -> Iterator[Repeat]:
    """Those that may be right 99 times of 100 after so many steps, the cheapest first."""
    bad = shows + (1 - shows) * unrelated
    found = []
    for runs in range(1, _MOST + 1):
        errors = _at_most(bad)[runs] + 1 - _at_most(unrelated)[runs]
        one = Repeat(runs, int(errors[:runs].argmin()) + 1)
        if (1 - errors[one.needed - 1] / 2) ** steps >= 0.985:
            found.append((one.expected(bad) + one.expected(unrelated), runs, one.needed))
    for _, runs, needed in sorted(found):
        yield Repeat(runs, needed)


def best_repeat(dag: Dag, lab: Lab, seed: int) -> tuple[Repeat, Played]:
    """The cheapest that is right in 99 of 100 of these very searches."""
    chooser = _Chooser(dag)
    for one in repeats(lab.shows, lab.unrelated, float(np.log2(len(dag)))):
        played = git_bisect(dag, lab, one, np.random.default_rng(seed), chooser)
        if played.right >= 0.99:
            return one, played
    raise LabError(
        f"no repeat of up to {_MOST} runs is right 99 times of 100 at {lab.shows:g}",
        where="bench bisect",
        cure="raise _MOST",
    )


class _Chooser:
    """git's next commit, remembered: histories share their first steps."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self._known: dict[tuple[int, int], int] = {}

    def pick(self, left: int, barren: int) -> int:
        """Of the candidates `left`, or -1 where only barren ones would tell more."""
        key = left, left & barren
        if key not in self._known:
            self._known[key] = self._pick(left, barren)
        return self._known[key]

    def _pick(self, left: int, barren: int) -> int:
        count, best, found = left.bit_count(), 0, -1
        bits = left & ~barren
        while bits:
            commit = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            weight = (self.dag.ancestors[commit] & left).bit_count()
            if min(weight, count - weight) > best:
                best, found = min(weight, count - weight), commit
        return found


def git_bisect(
    dag: Dag, lab: Lab, repeat: Repeat, random: np.random.Generator, chooser: _Chooser | None = None
) -> Played:
    """`git bisect run` with a script that repeats."""
    ancestors = dag.ancestors
    chooser = chooser or _Chooser(dag)
    ran = right = 0
    for culprit, row in zip(lab.culprit, lab.broken, strict=True):
        left, barren = (1 << len(dag)) - 1, 0
        while (commit := chooser.pick(left, barren)) >= 0:
            if row[commit]:
                barren |= 1 << commit
                continue
            has = bool(ancestors[commit] >> int(culprit) & 1)
            chance = lab.shows + (1 - lab.shows) * lab.unrelated if has else lab.unrelated
            runs, bad = _repeat(repeat, random.random(repeat.runs) < chance)
            ran += runs
            left &= ancestors[commit] if bad else ~ancestors[commit]
        right += left >> int(culprit) & 1
    return Played(ran / len(lab.culprit), right / len(lab.culprit))


def _repeat(repeat: Repeat, shown: NDArray[np.bool_]) -> tuple[int, bool]:
    """Runs until it is decided, and how."""
    hits = np.cumsum(shown)
    misses = np.arange(1, repeat.runs + 1) - hits
    over = (hits >= repeat.needed) | (misses > repeat.runs - repeat.needed)
    runs = int(over.argmax()) + 1
    return runs, bool(hits[runs - 1] >= repeat.needed)


def bayesect(
    lab: Lab, searches: int, random: np.random.Generator, most_runs: int = 3000
) -> Played | None:
    """git-bayesect at a confidence of 0.99 on a line; None where it is not installed.

    Its own loop: run what it selects, record, until one commit is that likely.  It selects commits
    that were skipped again and again; the next one that was not is run instead.  An answer beside
    the culprit counts as right where only commits without a verdict lie between.
    """
    if importlib.util.find_spec("git_bayesect") is None:
        return None
    package: Any = importlib.import_module("git_bayesect")
    commits = lab.broken.shape[1]
    ran = right = 0
    for culprit, row in zip(lab.culprit[:searches], lab.broken, strict=False):
        # Its index 0 is the newest commit; what the change is, is at or before it.
        search = package.Bisector([1.0] * commits)
        runs, skipped = 0, np.zeros(commits, dtype=np.bool_)
        while search.distribution.max() < 0.99 and runs < most_runs:
            index = search.select()
            commit = commits - 1 - index
            if skipped[commit]:
                tried = np.flatnonzero(~skipped)
                commit = int(tried[np.abs(tried - commit).argmin()])
                index = commits - 1 - commit
            if row[commit]:
                search.record(index, None)
                skipped[commit] = True
                continue
            bad = commit >= culprit
            chance = lab.shows + (1 - lab.shows) * lab.unrelated if bad else lab.unrelated
            search.record(index, bool(random.random() < chance))
            runs += 1
        answer = commits - 1 - int(search.distribution.argmax())
        labels = np.concatenate([[0], np.cumsum(~skipped)[:-1]])
        right += bool(labels[answer] == labels[culprit])
        ran += runs
    count = min(searches, len(lab.culprit))
    return Played(ran / count, right / count)
