"""What the bench puts beside the search does what it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bisect.dag import Dag
from harness.bisect.forecast import Lab
from tools.bench.bench_bisect import made
from tools.bench.bisect_rivals import Repeat, best_repeat, git_bisect, repeats

__all__: list[str] = []


def lab(dag: Dag, shows: float, unrelated: float, searches: int = 40) -> Lab:
    """One with a broken commit in twenty."""
    return Lab.draw(dag, searches, shows, unrelated, 0.05, np.random.default_rng(2))


@pytest.mark.parametrize("dag", [Dag.line(128), made(128, np.random.default_rng(0))])
def test_git_finds_what_always_fails_in_as_many_steps_as_bits(dag: Dag) -> None:
    played = git_bisect(dag, lab(dag, 1.0, 0.0), Repeat(1, 1), np.random.default_rng(0))
    assert played.right == 1.0
    assert played.runs < 8 if dag.linear else played.runs < 10


def test_chances_and_lengths_of_a_repeat_are_those_of_its_runs() -> None:
    one = Repeat(5, 2)
    dice = np.random.default_rng(0).random((20_000, 5)) < 0.3
    hits = dice.cumsum(axis=1)
    over = (hits >= 2) | (np.arange(1, 6) - hits > 3)
    assert one.wrong(0.3, True) == pytest.approx((hits[:, -1] < 2).mean(), abs=0.02)
    assert one.wrong(0.3, True) + one.wrong(0.3, False) == pytest.approx(1)
    assert one.expected(0.3) == pytest.approx((over.argmax(axis=1) + 1).mean(), abs=0.05)


def test_the_best_repeat_is_the_cheapest_that_is_right() -> None:
    dag = Dag.line(32)
    best, played = best_repeat(dag, lab(dag, 0.5, 0.02, 200), 3)
    assert played.right >= 0.99
    tried = list(repeats(0.5, 0.02, 5.0))
    costs = [one.expected(0.51) + one.expected(0.02) for one in tried]
    assert costs == sorted(costs)
    assert best in tried


def test_made_histories_have_merges_and_one_tip() -> None:
    dag = made(200, np.random.default_rng(5))
    assert len(dag) == 200
    assert sum(len(parents) > 1 for parents in dag.parents) > 5
    assert dag.ancestors[-1] == (1 << 200) - 1, "the tip has them all"
