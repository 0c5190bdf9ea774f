"""A test is run again with the kernel that it was run with, by whichever way."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.errors import LabError
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir
from harness.lab import repro
from harness.lab.casefile import Case, case_of
from harness.live.dut import Dut
from harness.plugin import life
from harness.plugin.stash import SHOWN
from harness.verdict import Verdict

TEST = "testcases/test_a.py::test_b[gfx]"


@pytest.fixture(params=["/builds/of me/6.12", ""], ids=["ours", "its own"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """One that failed."""
    run = RunDir.create(tmp_path, "box")
    run.update(target={"name": "box", "driver": "i915"}, boot=request.param)
    write_json(run.test(TEST) / "verdict.json", Verdict(TEST, "fail", "no flip", "armed"))
    return case_of(run, TEST)


def _expected(case: Case) -> list[str]:
    return [f"--boot={case.facts['boot']}"] if case.facts["boot"] else []


def _booted(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith("--boot")]


def test_the_line_after_a_failure_says_it(case: Case) -> None:
    stash = pytest.Stash()
    stash[SHOWN] = {}
    config = SimpleNamespace(stash=stash, getoption=lambda name: None)
    item = SimpleNamespace(nodeid=TEST, config=config)
    dut = SimpleNamespace(target=SimpleNamespace(name="box"), run=case.run, last_words=lambda: "")
    told = life._told(cast("pytest.Item", item), cast("Dut", dut), case.verdict)
    words = shlex.split(told.rpartition("rerun:")[2])
    assert words == ["pytest", TEST, "--target=box", *_expected(case)]


def test_the_mail_says_it(case: Case) -> None:
    assert shlex.split(case.rerun) == ["pytest", TEST, "--target=box", *_expected(case)]


def test_repro_does_it(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(argv: list[str], **_: object) -> SimpleNamespace:
        started.append(argv)
        return SimpleNamespace(returncode=4)

    monkeypatch.setattr("harness.lab.repro.subprocess.run", run)
    with pytest.raises(LabError, match="no test ran"):
        repro.run(case, tmp_path / "more", tmp_path / "targets.toml", 3, [])
    assert [_booted(argv) for argv in started] == [_expected(case)]
