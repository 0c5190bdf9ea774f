"""A run that was cut short: what is judged without being run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.evidence.rundir import RunDir
from harness.lab.resume import close_guilty, close_unopened, guilty, newest
from harness.verdict import recorded, rejudge


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "box")
    made.update(target={"name": "box"})
    return made


def _start(run: RunDir, *tests: str) -> None:
    for test in tests:
        run.journal.add("test-start", test=test, boot="b")


def test_the_test_that_killed_the_harness_is_incomplete_once(run: RunDir) -> None:
    _start(run, "t::first")
    run.journal.add("test-end", test="t::first", outcome="pass")
    _start(run, "t::guilty")
    assert guilty(run) == ["t::guilty"]
    assert close_guilty(run) == ["t::guilty"]
    judged = recorded(run)["t::guilty"]
    assert (judged.outcome, judged.reason) == (
        "incomplete",
        "the harness ended during this test",
    )
    assert guilty(run) == close_guilty(run) == []


def test_one_that_was_told_to_stop_is_run_again(run: RunDir) -> None:
    _start(run, "t::left")
    run.journal.add("run-end", how="interrupted")
    assert guilty(run) == []
    _start(run, "t::left")
    assert guilty(run) == ["t::left"]


def test_a_verdict_that_was_written_before_the_kill_stays(run: RunDir) -> None:
    _start(run, "t::judged")
    close_guilty(run)
    # Killed before the journal had its line.
    _start(run, "t::judged")
    assert guilty(run) == []


def test_a_window_that_could_not_be_opened_is_the_labs_error_for_good(run: RunDir) -> None:
    (run.boot("b") / "kmsg").write_bytes(b"4,1,1000000,-;kernel BUG at drivers/x.c:1!\n")
    _start(run, "t::unopened")
    close_unopened(run, "t::unopened", "the kernel log stopped")
    assert close_guilty(run) == []
    for verdicts in (recorded(run), {v.test: v for v in rejudge(run)}):
        judged = verdicts["t::unopened"]
        assert (judged.outcome, judged.reason) == ("error", "the kernel log stopped")
        assert judged.findings == (), "what the boot's log says is not its doing"


def test_the_newest_run_of_a_target_is_found_by_its_own_word(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-box-aaaaaa", "20260102T000000Z-box-bbbbbb"):
        (tmp_path / name).mkdir()
        made = RunDir(tmp_path / name)
        made.update(target={"name": "box"})
        made.close()
    other = RunDir(tmp_path / "20260102T000000Z-box-bbbbbb")
    other.close()
    longer = tmp_path / "20260103T000000Z-box-two-cccccc"
    longer.mkdir()
    RunDir(longer).update(target={"name": "box-two"})
    assert newest(tmp_path, "box").name == "20260102T000000Z-box-bbbbbb"
    with pytest.raises(UsageError, match="no run of nobody"):
        newest(tmp_path, "nobody")
