"""The morning diff: what it makes of nights that were made up for each kind of change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.lab import summary
from harness.lab.diff import Change, Diff, compare
from harness.lab.history import History, default_url
from harness.lab.rates import Rate, slower
from harness.tests.nights import Test, night_of, run_of

HANG = "testcases/test_hang.py::test_recovers[gfx]"
OTHER = "testcases/test_hang.py::test_other"

GOOD = Test(HANG)
BAD = Test(HANG, "fail", "WARNING in x")
WORSE = Test(HANG, "fail", "KASAN in y")
SAID = Test(HANG, "fail", reason="AssertionError: 3 of 4 came")
KNOWN = Test(HANG, "xfail", "WARNING in z", reason="known issue z: it is slow", known=("z",))
ERROR = Test(HANG, "error", reason="the link broke")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def history(runs: Path) -> Iterator[History]:
    with History.open(default_url(runs)) as opened:
        yield opened


def after(history: History, runs: Path, *nights: Test | None, **options: object) -> Diff:
    """The diff of the last of these nights of one target; None: the target was down."""
    kernels = options.pop("kernels", {})
    assert isinstance(kernels, dict)
    for day, test in enumerate(nights):
        tests = {"box": [test]} if test else {}
        down = {} if test else {"box": "no route to host"}
        night_of(runs, day, tests, down, kernels.get(day, "6.12.1"))
    history.add([runs])
    return compare(history, **options)  # type: ignore[arg-type]


def only(diff: Diff) -> Change:
    (change,) = diff.changes
    return change


@pytest.mark.parametrize(
    ("nights", "kind", "words"),
    [
        ((GOOD, BAD), "new", "WARNING in x"),
        ((BAD,), "new", "WARNING in x"),
        ((BAD, BAD), "still", "WARNING in x"),
        ((BAD, WORSE), "changed", "KASAN in y; before: WARNING in x"),
        ((BAD, GOOD), "fixed", "before: WARNING in x"),
        ((GOOD, BAD, GOOD), "flaky", "passes again on the same kernel: 1 of 3 failed"),
        ((BAD, GOOD, BAD), "flaky", "2 of 3 failed"),
        ((GOOD, BAD, GOOD, BAD), "still", "2 of 4 failed"),
        ((GOOD, BAD, GOOD, WORSE), "new", "KASAN in y"),
        ((GOOD, KNOWN), "known", "known issue z"),
        ((BAD, KNOWN), "known", "known issue z"),
        ((KNOWN, GOOD), "fixed", "before: known issue z"),
        ((KNOWN, BAD), "changed", "WARNING in x"),
        ((GOOD, ERROR), "missing", "error: the link broke"),
        ((ERROR,), "missing", "error: the link broke (1 test)"),
        ((ERROR, ERROR), "missing", "error: the link broke (1 test)"),
        ((Test(HANG, "blind", reason="lockdep was off"),), "missing", "blind: lockdep"),
        ((GOOD, None), "missing", "no route to host (1 test)"),
        ((GOOD, None, None), "missing", "no route to host (1 test)"),
        ((None,), "missing", "no route to host"),
        ((GOOD, Test(HANG, "blind", reason="lockdep was off")), "missing", "blind: lockdep"),
        ((GOOD, Test(HANG, "skip", reason="no engine")), "missing", "skip: no engine"),
        ((GOOD, Test(HANG, ended=False)), "missing", "the harness ended"),
        ((GOOD, Test(HANG, "incomplete", reason="the target died")), "new", "died"),
        ((GOOD, None, BAD), "new", "WARNING in x"),
        ((BAD, None, BAD), "still", "WARNING in x"),
        ((BAD, ERROR, GOOD), "fixed", "before: WARNING in x"),
    ],
)
def test_kinds(
    history: History, runs: Path, nights: tuple[Test | None, ...], kind: str, words: str
) -> None:
    change = only(after(history, runs, *nights))
    assert change.kind == kind
    assert words in change.why
    assert change.target == "box"


@pytest.mark.parametrize(
    "nights",
    [
        (GOOD,),
        (GOOD, GOOD),
        (GOOD, Test(HANG, "xfail", reason="as pytest's own")),
        (Test(HANG, "skip"), Test(HANG, "skip")),
        (GOOD, BAD, GOOD, GOOD),
        (None, GOOD),
    ],
)
def test_what_is_no_change(history: History, runs: Path, nights: tuple[Test, ...]) -> None:
    assert after(history, runs, *nights).changes == ()


def test_another_kernel_makes_no_flake(history: History, runs: Path) -> None:
    diff = after(history, runs, GOOD, BAD, GOOD, kernels={1: "6.13.0", 2: "6.13.1"})
    assert only(diff).kind == "fixed"


def test_numbers_do_not_make_another_failure(history: History, runs: Path) -> None:
    again = Test(HANG, "fail", reason="AssertionError: 2 of 4 came")
    assert only(after(history, runs, SAID, again)).kind == "still"
    other = Test(HANG, "fail", reason="AssertionError: no fence")
    night_of(runs, 2, {"box": [other]})
    history.add([runs])
    assert only(compare(history)).kind == "changed"


def test_since_is_the_first_of_the_failures_that_last(history: History, runs: Path) -> None:
    kernels = {2: "6.13.0", 3: "6.13.0", 4: "6.13.0"}
    change = only(after(history, runs, GOOD, GOOD, BAD, ERROR, BAD, kernels=kernels))
    assert change.kind == "still"
    assert change.since is not None
    assert change.since.kernel == "6.13.0"
    assert change.since.night == history.nights()[2].name
    assert change.before is not None
    assert change.before.night == change.since.night


def test_repetitions_of_one_night_show_a_flake(history: History, runs: Path) -> None:
    second = Test(HANG.replace("]", "-@2]"), "fail", "WARNING in x")
    night_of(runs, 0, {"box": [GOOD]})
    night_of(runs, 1, {"box": [GOOD, second]})
    history.add([runs])
    change = only(compare(history))
    assert (change.kind, "1 of 3 failed" in change.why) == ("flaky", True)


def test_like_is_compared_with_like(history: History, runs: Path) -> None:
    night_of(runs, 0, {"one": [GOOD], "two": [BAD]})
    night_of(runs, 1, {"one": [BAD], "two": [BAD]})
    history.add([runs])
    found = {change.target: change for change in compare(history).changes}
    assert {target: change.kind for target, change in found.items()} == {
        "one": "new",
        "two": "still",
    }
    assert found["one"].elsewhere == ("two",)


def test_a_dead_target_is_one_line_and_a_dead_test_another(history: History, runs: Path) -> None:
    night_of(runs, 0, {"one": [GOOD, Test(OTHER)], "two": [GOOD, Test(OTHER)]})
    night_of(runs, 1, {"one": [GOOD]}, {"one": "recovery failed", "two": "no route to host"})
    history.add([runs])
    diff = compare(history)
    assert [(c.kind, c.target, c.test, c.why) for c in diff.changes] == [
        ("missing", "one", OTHER, "recovery failed"),
        ("missing", "two", "", "no route to host (2 tests)"),
    ]
    assert (diff.regressions, len(diff.lab_troubles), diff.ran) == ([], 2, 1)


def test_a_target_nobody_asked_for_is_no_trouble_of_the_lab(history: History, runs: Path) -> None:
    night_of(runs, 0, {"one": [GOOD], "two": [GOOD]})
    night_of(runs, 1, {"one": [GOOD]})
    history.add([runs])
    diff = compare(history)
    assert only(diff).why == "the target was not asked for (1 test)"
    assert diff.lab_troubles == []


def test_two_nights_by_name_and_two_runs_by_hand(history: History, runs: Path) -> None:
    names = [night_of(runs, day, {"box": [test]}) for day, test in enumerate((GOOD, BAD, WORSE))]
    history.add([runs])
    assert only(compare(history, names[0], names[2])).kind == "new"
    assert only(compare(history, names[1], names[2])).kind == "changed"
    assert only(compare(history, after=names[1])).kind == "new"
    by_hand = [
        run_of(runs, "box", [test], day=9, hour=hour, kernel="6.14")
        for hour, test in enumerate((BAD, GOOD))
    ]
    history.add([runs])
    before, now = map(str, by_hand)
    diff = compare(history, before, now)
    assert only(diff).kind == "fixed"
    assert summary.status(diff) == summary.CLEAN
    # A night in between does not see what somebody did by hand.
    night_of(runs, 10, {"box": [WORSE]})
    history.add([runs])
    assert only(compare(history)).kind == "still"


def test_a_name_that_is_none(history: History, runs: Path) -> None:
    with pytest.raises(UsageError, match="no nightly"):
        compare(history)
    name = night_of(runs, 0, {"box": [GOOD]})
    night_of(runs, 1, {"box": [GOOD]})
    history.add([runs])
    with pytest.raises(UsageError, match=name):
        compare(history, "yesterday")
    with pytest.raises(UsageError, match="several"):
        compare(history, name[:6])


def test_slower_than_its_own_past(history: History, runs: Path) -> None:
    usual = [Test(HANG, times={"tdr": 6.0 + 0.1 * (day % 3)}) for day in range(6)]
    change = only(after(history, runs, *usual, Test(HANG, times={"tdr": 12.0})))
    assert change.kind == "slower"
    assert "tdr took 12 s, 2.0 times the median 6.1 s" in change.why


def test_as_slow_as_ever(history: History, runs: Path) -> None:
    usual = [Test(HANG, times={"tdr": 6.0 + 3.0 * (day % 2)}) for day in range(6)]
    assert after(history, runs, *usual, Test(HANG, times={"tdr": 10.0})).changes == ()


@pytest.mark.parametrize(
    ("failed", "runs", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.30850),
        (1, 10, 0.00253, 0.44502),
        (5, 10, 0.18709, 0.81291),
        (10, 10, 0.69150, 1.0),
        (3, 1000, 0.00062, 0.00874),
    ],
)
def test_interval(failed: int, runs: int, low: float, high: float) -> None:
    """As in printed tables of Clopper and Pearson's 95 % limits."""
    found = Rate(failed, runs).interval()
    assert found == pytest.approx((low, high), abs=1e-5)


def test_slower_wants_enough_and_more_than_noise() -> None:
    steady = [1.0] * 10
    assert slower("tdr", [9.0], steady[:4]) is None
    assert slower("tdr", [], steady) is None
    assert slower("tdr", [1.4], steady) is None  # below half a second
    assert slower("tdr", [1.6], steady) is not None
    assert slower("fence", [0.004], [0.001] * 9) is None
    wide = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert slower("tdr", [9.0], wide) is None
    assert slower("tdr", [11.0], wide) is not None


def test_a_known_flake_is_judged_by_its_rate(history: History, runs: Path) -> None:
    flake = Test(HANG, "xfail", "WARNING in z", known=("z",), reason="known issue z")
    rates = {"z": 0.2}
    diff = after(history, runs, flake, GOOD, GOOD, GOOD, flake, rates=rates)
    assert only(diff).kind == "known"
    for day in range(5, 11):
        night_of(runs, day, {"box": [flake]})
    history.add([runs])
    worse = only(compare(history, rates=rates))
    assert worse.kind == "changed"
    assert "known flake z (rate 20%) is worse" in worse.why


def test_a_known_flake_that_stays_away_is_fixed_once(history: History, runs: Path) -> None:
    flake = Test(HANG, "xfail", "WARNING in z", known=("z",), reason="known issue z")
    rates = {"z": 0.4}
    said = []
    for day, test in enumerate([flake, *[GOOD] * 8]):
        night_of(runs, day, {"box": [test]})
        history.add([runs])
        said.append([c.why for c in compare(history, rates=rates).of("fixed")])
    # 0.6 ** 6 is the first below 0.05.
    assert [len(words) for words in said] == [0] * 6 + [1, 0, 0]
    assert "did not show in 6 runs" in said[6][0]
