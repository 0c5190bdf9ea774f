"""Several runs in one boot: cheaper, each counted, not trusted where only fresh boots show it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.bisect import report
from harness.bisect.oracle import hear, hear_each
from harness.bisect.reuse import shows_less
from harness.evidence import journal
from harness.tests import bisecting

__all__: list[str] = []


def half(boot: int, attempt: int) -> bool:
    """A flake, the same at every call."""
    return random.Random(f"{boot} {attempt}").random() < 0.5


def test_runs_of_one_boot_are_counted_each(tmp_path: Path) -> None:
    made = bisecting.make(tmp_path, commits=20, culprit=7, per_boot=8, seen=(10, 20), shows=half)
    answer = made.go()
    assert (answer.sure, answer.members) == (True, (7,))
    boots = len(list((tmp_path / "runs").iterdir()))
    assert boots < len(made.attempts) / 2, "a boot serves several"
    assert all(one.test_s == bisecting.SECONDS for one in made.attempts)
    assert f"boots      {boots}, of up to 8 runs\n" in report.text(made, answer)


def test_a_boot_ends_with_the_first_that_shows_it(tmp_path: Path) -> None:
    made = bisecting.make(tmp_path, commits=20, culprit=0, per_boot=8, seen=(10, 20))
    made.go()
    boots = [one.run for one in made.attempts]
    assert len(boots) == len(set(boots))


def test_where_only_fresh_boots_show_it_used_ones_do_not_count(tmp_path: Path) -> None:
    def first_only(boot: int, attempt: int) -> bool:
        return attempt == 1 and half(boot, attempt)

    made = bisecting.make(
        tmp_path, commits=20, culprit=7, per_boot=8, seen=(10, 20), shows=first_only
    )
    answer = made.go()
    assert made.fresh_only
    assert (answer.sure, answer.members) == (True, (7,))
    assert "used ones show it less" in report.text(made, answer)
    made.close()
    again = bisecting.make(tmp_path, commits=20, culprit=7, per_boot=8, seen=(10, 20))
    assert again.fresh_only, "a resumed one stands where that stood"
    assert (again.search.answer().chances == answer.chances).all()


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_what_a_kill_left_untold_of_a_boot_is_heard_again(kept: int, tmp_path: Path) -> None:
    made = bisecting.make(tmp_path, commits=20, culprit=19, per_boot=8, seen=(10, 20), shows=half)
    made.go()
    made.close()
    whole = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    entries = list(journal.read(tmp_path / "journal.jsonl"))
    first = next(n for n, e in enumerate(entries) if e["what"] == "answer" and e["left"] >= 5)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(whole[: first + kept]))
    again = bisecting.make(tmp_path, commits=20, culprit=19, per_boot=8, seen=(10, 20), shows=half)
    told = entries[first]["left"] + 1
    last = again.attempts[-told:]
    assert [one.left for one in last] == list(reversed(range(told)))
    assert {one.run for one in last} == {entries[first]["run"]}


def test_each_run_of_a_boot_has_its_answer(tmp_path: Path) -> None:
    made = bisecting.make(
        tmp_path, commits=2, culprit=0, per_boot=8, seen=(10, 20),
        shows=lambda boot, attempt: attempt == 3,
    )  # fmt: skip
    made.go()
    third = next(one for one in made.attempts if one.kind == "bad")
    run = next((tmp_path / third.run).iterdir())
    each = hear_each(run, bisecting.TEST, bisecting.WANTED, {})
    assert [one.kind for one in each] == ["good", "good", "bad"]
    assert hear(run, bisecting.TEST, bisecting.WANTED, {}).kind == "bad"
    assert [one.kind for one in hear_each(run, "testcases/test_a.py", bisecting.WANTED, {})] == [
        "bad"
    ], "of several tests only the whole is an answer"


def test_as_many_showings_are_no_reason_to_doubt() -> None:
    fresh = [(1, False, True)] * 5 + [(1, False, False)] * 5
    assert not shows_less(fresh)
    assert not shows_less([*fresh, *[(1, True, True)] * 5, *[(1, True, False)] * 6])
    assert shows_less([*fresh, *[(1, True, False)] * 20])
    assert not shows_less([*fresh, *[(2, True, False)] * 20]), "it may be good"
