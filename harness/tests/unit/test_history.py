"""The history: what it says of made-up run directories, twice over, on SQLite."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from harness.evidence.rundir import attempt_of
from harness.lab import tables
from harness.lab.history import Added, History, default_url
from harness.tests.inner import ROOT
from harness.tests.nights import DAY, FIRST, Test, night_of, run_of

HANG = "testcases/test_hang.py::test_recovers[gfx]"
OTHER = "testcases/test_hang.py::test_other"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def history(runs: Path) -> Iterator[History]:
    with History.open(default_url(runs)) as opened:
        yield opened


def test_a_run_is_read_once_and_again_when_it_changed(runs: Path, history: History) -> None:
    path = run_of(runs, "navi", [Test(HANG, "fail", "WARNING in x"), Test(OTHER)])
    assert history.add([runs]) == Added(read=1, known=0, results=2)
    before = history.results()
    assert history.add([runs, path]) == Added(read=0, known=2, results=0)
    assert history.results() == before
    verdict = next(path.glob("tests/*other*/verdict.json"))
    text = verdict.read_bytes().replace(b'"pass"', b'"error"')
    verdict.unlink()
    verdict.write_bytes(text)
    assert history.add([runs]).read == 1
    assert [r.outcome for r in history.results()] == ["fail", "error"]


def test_what_a_result_says(runs: Path, history: History) -> None:
    said = Test(HANG, "fail", "WARNING in x", known=("a", "b"), times={"tdr": 2.5})
    path = run_of(runs, "navi", [said], kernel="6.13.0", day=2)
    history.add([runs])
    (result,) = history.results()
    assert (result.run, result.path) == (path.name, path)
    assert (result.target, result.driver, result.kernel) == ("navi", "amdgpu", "6.13.0")
    assert (result.test, result.attempt, result.started) == (HANG, 1, FIRST + 2 * DAY)
    assert (result.known, result.times, result.bad) == (("a", "b"), {"tdr": 2.5}, True)
    # The note beside it is none of the history's business.
    assert [(f.kind, f.title) for f in result.failings] == [("warning", "WARNING in x")]
    assert history.results(signature=result.signatures[0]) == [result]
    assert history.results(test=HANG, target="navi", nights=[path.name]) == [result]
    for nothing in ({"test": OTHER}, {"target": "gen3"}, {"signature": "0" * 12}):
        assert history.results(**nothing) == []  # type: ignore[arg-type]
    assert history.results(since=result.started + 1) == []


def test_a_test_that_the_harness_left_is_the_labs(runs: Path, history: History) -> None:
    run_of(runs, "navi", [Test(HANG), Test(OTHER, ended=False)], how="")
    history.add([runs])
    first, second = history.results()
    assert (first.outcome, second.outcome) == ("pass", "error")
    assert "the harness ended" in second.reason
    assert (history.runs()[0].ended, history.runs()[0].how) == (None, "")


def test_a_torn_verdict_is_an_error_and_the_others_stand(runs: Path, history: History) -> None:
    path = run_of(runs, "navi", [Test(HANG), Test(OTHER)])
    next(path.glob("tests/*other*/verdict.json")).write_bytes(b'{"test": "x", "outc')
    (path / "run.json").write_bytes(b"{")
    history.add([runs])
    assert [r.outcome for r in history.results()] == ["pass", "error"]
    assert history.results()[0].target == ""


def test_nights_have_their_targets_and_troubles(runs: Path, history: History) -> None:
    first = night_of(runs, 0, {"navi": [Test(HANG)]}, {"gen3": "no route to host"})
    second = night_of(runs, 1, {"navi": [Test(HANG)], "gen3": [Test(HANG)]})
    by_hand = run_of(runs, "navi", [Test(HANG)], day=5)
    history.add([runs])
    assert [night.name for night in history.nights()] == [second, first]
    older = history.nights()[1]
    assert (older.targets, older.troubles) == (("gen3", "navi"), {"gen3": "no route to host"})
    assert (older.how, older.ended) == ("done", FIRST + 3600)
    assert history.nights(nightly=False, last=1)[0].name == by_hand.name
    assert [run.target for run in history.runs(night=second)] == ["gen3", "navi"]


def test_sightings_say_where_and_since_when(runs: Path, history: History) -> None:
    for day in range(3):
        tests = [Test(HANG, "fail", "WARNING in x")] if day else [Test(HANG)]
        night_of(runs, day, {"navi": tests, "gen3": [Test(HANG)]}, kernel=f"6.{day}.0")
    history.add([runs])
    (seen,) = history.sightings()
    assert (seen.title, seen.count, seen.first_kernel) == ("WARNING in x", 2, "6.1.0")
    assert (seen.targets, seen.kernels, seen.tests) == (("navi",), ("6.1.0", "6.2.0"), (HANG,))
    assert history.sightings([seen.signature]) == [seen]
    assert history.sightings(["0" * 12]) == []


def test_repetitions_are_attempts_at_one_test(runs: Path, history: History) -> None:
    again = HANG.replace("]", "-@2]")
    run_of(runs, "navi", [Test(HANG), Test(again, "fail", "x"), Test(OTHER + "[@2]")])
    history.add([runs])
    found = {(r.test, r.attempt): r.outcome for r in history.results()}
    assert found == {(HANG, 1): "pass", (HANG, 2): "fail", (OTHER, 2): "pass"}
    assert attempt_of("a.py::test[x@y]") == ("a.py::test[x@y]", 1)


def test_an_older_schema_is_made_anew(runs: Path) -> None:
    run_of(runs, "navi", [Test(HANG)])
    night_of(runs, 1, {"navi": [Test(HANG)]})
    gone = run_of(runs, "navi", [Test(HANG)], day=3)
    with History.open(default_url(runs)) as history:
        history.add([runs])
        before = history.results(until=FIRST + 2 * DAY)
    for path in sorted(gone.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    gone.rmdir()
    with sqlite3.connect(runs / "history.sqlite") as database:
        database.execute("update meta set value = '0'")
        database.execute("drop table failings")
        # Schema 1 had it; a server does not drop what it refers to.
        database.execute("create table times (run integer references runs(id))")
        database.execute("alter table results add column of_another_age text")
    with History.open(default_url(runs)) as history:
        assert history.results() == before
        assert len(history.nights()) == 1
    with sqlite3.connect(runs / "history.sqlite") as database:
        assert not database.execute("pragma table_info(times)").fetchall()


def test_a_newer_schema_is_left_alone(runs: Path) -> None:
    History.open(default_url(runs)).close()
    with sqlite3.connect(runs / "history.sqlite") as database:
        database.execute(f"update meta set value = '{tables.SCHEMA + 1}'")
    with pytest.raises(UsageError, match="newer"):
        History.open(default_url(runs))


def test_rebuild_reads_everything_again(runs: Path, history: History) -> None:
    night_of(runs, 0, {"navi": [Test(HANG)]})
    history.add([runs])
    before = (history.results(), history.nights())
    assert history.rebuild([]) == Added(read=1, known=0, results=1)
    assert (history.results(), history.nights()) == before


def test_two_processes_at_once(runs: Path, history: History) -> None:
    """Both read the same runs into the same history: each is there once."""
    for day in range(20):
        run_of(runs, "navi", [Test(f"t.py::test_{n}") for n in range(5)], day=day)
    code = (
        "import sys; from pathlib import Path; from harness.lab.history import *\n"
        "with History.open(sys.argv[1]) as h: h.add([Path(sys.argv[2])])"
    )
    argv = [sys.executable, "-c", code, default_url(runs), str(runs)]
    beside = [subprocess.Popen(argv, cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in beside] == [0, 0]
    assert len(history.results()) == 100
    assert history.add([runs]) == Added(read=0, known=20, results=0)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite:////proc/no/where.db"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="sqlite:///FILE"):
        History.open(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database at all" * 100)
    with pytest.raises(LabError, match="does not answer"):
        History.open(f"sqlite:///{tmp_path}/x")
