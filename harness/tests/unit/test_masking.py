"""A boot that a known issue left blind."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec
import pytest

from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir, Window
from harness.inventory import Target
from harness.known import Issue, KnownIssues
from harness.masking import masker, order
from harness.verdict import Verdict, judge

BOX = Target(driver="amdgpu", name="box", address="box.lab")
FIRST_SPLAT = Issue(
    title="recovery takes console_lock", state="fail", bug="https://bugs/1", expires=date.max,
    signature="0123456789ab", driver="amdgpu",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "box")


def _judged(run: RunDir, test: str, boot: str, verdict: Verdict) -> Window:
    window = Window(test=test, boot_id=boot, first_seq=0, offset=0, body="passed")
    window.health_before = window.health_after = {"debug_locks": 0}
    run.journal.add("test-start", test=test, boot=boot)
    write_json(run.test(test) / "window.json", window)
    write_json(run.test(test) / "verdict.json", verdict)
    return window


def _verdict(test: str, outcome: str, known: tuple[str, ...] = ()) -> Verdict:
    told = {"test": test, "outcome": outcome, "reason": "", "lockdep": "went off", "known": known}
    return msgspec.convert(told, Verdict)


def test_what_comes_after_a_known_splat_is_masked_by_it(run: RunDir) -> None:
    _judged(run, "t::first", "b", _verdict("t::first", "xfail", ("console-lock",)))
    later = _judged(run, "t::later", "b", _verdict("t::later", "blind"))
    got = judge(run, later)
    assert (got.outcome, got.masked) == ("blind", "console-lock")
    assert got.reason == "masked by console-lock: lockdep went off in t::first"
    assert masker(run, "another") == ("", "")
    assert masker(run, "b", "t::first") == ("", ""), "what came before saw all"


def test_who_left_lockdep_on_is_not_asked_again(run: RunDir) -> None:
    _judged(run, "t::first", "b", _verdict("t::first", "xfail", ("console-lock",)))
    run.journal.add("test-end", test="t::first", lockdep="armed")
    assert masker(run, "b") == ("", "")
    run.journal.add("lockdep-late", test="t::first", lockdep="went off")
    assert masker(run, "b") == ("console-lock", "t::first"), "its teardown did it"


def test_an_unknown_splat_masks_nothing(run: RunDir) -> None:
    _judged(run, "t::first", "b", _verdict("t::first", "fail", ("console-lock",)))
    later = _judged(run, "t::later", "b", _verdict("t::later", "blind"))
    got = judge(run, later)
    assert (got.outcome, got.masked) == ("blind", "")
    assert "lockdep was off" in got.reason


@pytest.mark.parametrize(
    ("issues", "wanted"),
    [
        ({}, ["a", "free", "c"]),
        ({"x": FIRST_SPLAT}, ["a", "c", "free"]),
        ({"x": msgspec.structs.replace(FIRST_SPLAT, driver="i915")}, ["a", "free", "c"]),
        ({"x": msgspec.structs.replace(FIRST_SPLAT, state="ignore")}, ["a", "free", "c"]),
    ],
)
def test_tests_that_need_no_lockdep_share_the_blind_boot(
    issues: dict[str, Issue], wanted: list[str]
) -> None:
    known = KnownIssues(issues)
    assert order(["a", "free", "c"], known, lambda _: BOX, lambda name: name == "free") == wanted
