"""Whether a boot that has run the test before shows the finding as readily as a fresh one.

Several runs in one boot are cheap, and worth nothing where only the first one can show it: the
first reset of a boot, lockdep's first sight of a lock.  The runs themselves tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

__all__ = ["shows_less"]

# Chance of as few showings in used boots, were they like fresh ones, below which they are not.
_UNLIKELY = 0.01


def shows_less(answers: Iterable[tuple[int, bool, bool]]) -> bool:
    """Whether used boots show it too rarely.

    `answers`: the commit, whether its boot had run the test before, and whether this run showed
    it.  Only commits that ever showed it tell: the others may be good.
    """
    given = list(answers)
    bad = {commit for commit, _, shown in given if shown}
    tally = {True: [0, 0], False: [0, 0]}
    for commit, used, shown in given:
        if commit in bad:
            tally[used][not shown] += 1
    (used_bad, used_good), (fresh_bad, fresh_good) = tally[True], tally[False]
    # Fisher's exact test: the same showings dealt out to fresh and used runs at random.
    showing, later = used_bad + fresh_bad, used_bad + used_good
    every = later + fresh_bad + fresh_good
    ways = sum(comb(showing, k) * comb(every - showing, later - k) for k in range(used_bad + 1))
    return ways < _UNLIKELY * comb(every, later)
