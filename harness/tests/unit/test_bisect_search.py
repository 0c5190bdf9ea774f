"""The search: sums over DAGs, the posterior beside brute force, its stops and its sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect.dag import Dag
from harness.bisect.forecast import Lab, forecast
from harness.bisect.policy import Price
from harness.bisect.posterior import Posterior
from harness.bisect.rate import BAD, GOOD, Rate, of_bad_after, of_good
from harness.bisect.search import Assumed, Search

__all__: list[str] = []

SURE = Assumed(seen=20, seen_bad=20)


@st.composite
def dags(draw: st.DrawFn, most: int = 12) -> Dag:
    """Any DAG of up to `most` commits."""
    count = draw(st.integers(1, most))
    return Dag(
        [
            sorted(draw(st.sets(st.integers(0, child - 1), max_size=3))) if child else []
            for child in range(count)
        ]
    )


def having(dag: Dag, culprit: int, commit: int) -> bool:
    """Whether `culprit` is `commit` or an ancestor of it, walked by hand."""
    return commit == culprit or any(having(dag, culprit, one) for one in dag.parents[commit])


@settings(deadline=None, max_examples=50)
@given(dags())
def test_sums_rows_and_classes_follow_the_parents(dag: Dag) -> None:
    count = len(dag)
    values = np.arange(1.0, count + 1)[np.newaxis]
    rows = dag.rows(np.arange(count))
    sums = dag.sums(values)[0]
    for commit in range(count):
        with_it = [having(dag, culprit, commit) for culprit in range(count)]
        assert rows[commit].tolist() == with_it
        assert sums[commit] == values[0][with_it].sum()
    barren = np.zeros(count, dtype=np.bool_)
    barren[::2] = True
    labels = dag.classes(barren)
    for one in range(count):
        for other in range(count):
            same = (rows[~barren, one] == rows[~barren, other]).all()
            assert (labels[one] == labels[other]) == same


def test_a_line_is_what_a_dag_of_single_parents_is() -> None:
    line = Dag.line(100)
    assert line.linear
    assert not Dag([[], [], [0, 1]]).linear
    with pytest.raises(ValueError, match="before a parent"):
        Dag([[1], []])


def test_many_commits_are_summed_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    parents: list[list[int]] = [[]]
    parents += [[max(0, child - 1), child // 2] for child in range(1, 700)]
    values = np.random.default_rng(0).random((2, 700))
    small = Dag(parents).sums(values)
    monkeypatch.setattr("harness.bisect.dag._DENSE", 10)
    assert np.allclose(Dag(parents).sums(values), small, rtol=1e-5)


def test_evidence_and_chance_of_a_rate_are_its_integrals() -> None:
    rate = Rate([0.2, 0.9], [3, 1])
    tally = np.array([2 * BAD + 3 * GOOD])
    both = np.array([0.75 * 0.2**2 * 0.8**3, 0.25 * 0.9**2 * 0.1**3])
    assert rate.evidence(tally)[0] == pytest.approx(np.log(both.sum()))
    share = both / both.sum()
    assert rate.posterior(int(tally[0])) == pytest.approx(share)
    chance, doubt = rate.chance(tally)
    shown = share @ [0.2, 0.9]
    assert chance[0] == pytest.approx(shown)
    assert doubt[0] == pytest.approx(-shown * np.log2(shown) - (1 - shown) * np.log2(1 - shown))
    assert rate.chance(tally, 2)[0][0] == pytest.approx(1 - share @ [0.8**2, 0.1**2])


@settings(deadline=None, max_examples=25)
@given(dags(6), st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=8))
def test_the_posterior_is_bayes_rule(dag: Dag, runs: list[tuple[int, bool]]) -> None:
    bad, good = Rate([0.3, 0.9], [1, 1]), Rate([0.01, 0.1], [1, 1])
    count = len(dag)
    posterior = Posterior(dag, bad, good, np.ones(count))

    def told(culprit: int, runs: list[tuple[int, bool]]) -> float:
        chance = 0.0
        for shows in (0.3, 0.9):
            for seems in (0.01, 0.1):
                each = [
                    (shows if having(dag, culprit, commit) else seems, shown)
                    for commit, shown in runs
                ]
                chance += float(np.prod([p if shown else 1 - p for p, shown in each])) / 4
        return chance

    runs = [(commit % count, shown) for commit, shown in runs]
    for commit, shown in runs:
        posterior.record(slice(None), np.array([commit]), np.array([shown]))
    expected = np.array([told(culprit, runs) for culprit in range(count)])
    weights = posterior.weights()
    assert weights[0] == pytest.approx(expected / expected.sum(), rel=1e-6)

    def entropy(share: list[float]) -> float:
        return float(-sum(p * np.log2(p) for p in np.array(share) / sum(share) if p > 0))

    # Bits are the fall of the entropy that is expected of one run more.
    before = entropy([told(culprit, runs) for culprit in range(count)])
    bits = posterior.information(weights)[0]
    for commit in range(count):
        after = 0.0
        for shown in (False, True):
            joint = [told(culprit, [*runs, (commit, shown)]) for culprit in range(count)]
            after += sum(joint) / expected.sum() * entropy(joint)
        assert bits[commit] == pytest.approx(before - after, abs=2e-5)


@pytest.mark.parametrize("culprit", range(32))
def test_a_kernel_that_always_fails_is_found_in_few_runs(culprit: int) -> None:
    search, runs = Search(Dag.line(32), SURE), 0
    while (commit := search.next()) is not None:
        search.record(commit, "bad" if commit >= culprit else "good")
        runs += 1
    answer = search.answer()
    assert (answer.sure, answer.members) == (True, (culprit,))
    assert runs <= 8


def test_a_merged_branch_is_searched_without_its_main_line() -> None:
    # 0-1-2-3 is the main line, 4-5-6 a branch from 0, 7 their merge.
    dag = Dag([[], [0], [1], [2], [0], [4], [5], [3, 6]])
    search = Search(dag, SURE)
    while (commit := search.next()) is not None:
        search.record(commit, "bad" if having(dag, 5, commit) else "good")
    assert search.answer().members == (5,)


def test_commits_that_cannot_be_run_end_in_a_set() -> None:
    search = Search(Dag.line(16), SURE)
    while (commit := search.next()) is not None:
        if 6 <= commit <= 8:
            search.record(commit, "unbuildable")
        else:
            search.record(commit, "bad" if commit >= 7 else "good")
    answer = search.answer()
    assert (answer.sure, answer.members) == (True, (6, 7, 8, 9))
    assert search.barren() == [6, 7, 8]


def test_other_failures_and_lost_runs_count_for_nothing() -> None:
    search = Search(Dag.line(8), SURE)
    before = search.answer().chances
    search.record(3, "other")
    search.record(3, "none")
    assert (search.answer().chances == before).all()
    assert search.barren() == []
    search.record(3, "none")
    assert search.barren() == [3], "three in a row are enough"


def test_what_nothing_can_tell_is_said_not_guessed() -> None:
    search = Search(Dag.line(4), Assumed())
    for commit in range(4):
        search.record(commit, "unbuildable")
    assert search.next() is None
    answer = search.answer()
    assert answer.sure, "all four are one class"
    assert answer.members == (0, 1, 2, 3)
    merged = Search(Dag([[], [], [0, 1]]), Assumed())
    for commit in range(3):
        merged.record(commit, "unbuildable")
    assert merged.next() is None
    assert merged.answer().members == (0, 1, 2)


def test_a_build_is_paid_for_only_where_it_tells_more() -> None:
    search = Search(Dag.line(64), Assumed(seen=10, seen_bad=2))
    free = np.full(64, 3000.0)
    free[20] = 0.0
    assert search.next(Price(free, 10.0)) == 20, "there already, and nearly as telling"
    free[20], free[:] = 0.0, 0.0
    assert search.next(Price(free, 10.0)) == search.next()


def test_the_same_answers_lead_to_the_same_question() -> None:
    def asked() -> list[int]:
        search, seen = Search(Dag.line(100), Assumed()), list[int]()
        dice = np.random.default_rng(4)
        while (commit := search.next()) is not None and len(seen) < 30:
            seen.append(commit)
            search.record(commit, "bad" if commit >= 40 and dice.random() < 0.6 else "good")
        return seen

    assert asked() == asked()


def test_simulated_searches_are_right_as_often_as_they_say() -> None:
    dag, dice = Dag.line(48), np.random.default_rng(1)
    for shows, told in ((1.0, 0), (0.5, 20), (0.95, 20)):
        lab = Lab.draw(dag, 80, shows, 0.02, 0.05, dice)
        rate = of_bad_after(told)
        done = forecast(dag, lab, rate, of_good(0.02), dice, told=told)
        assert done.sure.mean() > 0.97
        # Of 80 searches one may be wrong; these dice fall the same every time.
        assert (done.sure & ~done.right).sum() <= 2
        assert done.size[done.sure].mean() < 2
