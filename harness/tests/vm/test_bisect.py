"""A real bisect of a planted regression: unattended, through a kill and a dying machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bisect.bisection import Setting
from harness.deadline import Deadline
from harness.evidence import journal
from harness.tests.inner import ROOT, processes_mentioning, targets_file
from harness.tests.vm.broken.build import absent
from harness.tests.vm.planted import MODULE, Planted, plant

TEST = "testcases/test_hang.py::test_recovers[gfx]"
# Of one step: a build, a boot and a test on a host that has more to do.
STEP_S = 1800.0


def command(planted: Planted, directory: Path, name: str, *more: str) -> list[str]:
    """`lab bisect` of `planted`, its folder below `directory`."""
    targets = directory / "targets.toml"
    if not targets.exists():
        targets_file(targets, name)
    return [
        *(sys.executable, "-m", "harness.cli", "--inventory", str(targets), "bisect"),
        *("--target", name, "--tree", str(planted.tree), "--test", TEST, "--module", MODULE),
        *("--good", planted.good, "--bad", planted.bad, "--dir", str(directory / "bisect")),
        *more,
    ]


def answers(folder: Path) -> list[dict[str, object]]:
    """What the journal holds of attempts."""
    return [e for e in journal.read(folder / "journal.jsonl") if e["what"] == "answer"]


def started(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = Deadline(STEP_S)
    while not condition():
        assert process.poll() is None, log.read_text()
        assert deadline.pause(0.2), log.read_text()


def in_a_test(folder: Path) -> bool:
    """Whether a machine is up and its test has begun."""
    runs = sorted(folder.glob("runs/*/*/journal.jsonl"))
    return bool(runs) and bool(journal.unfinished(runs[-1]))


@pytest.fixture(autouse=True)
def _buildable() -> None:
    if reason := absent():
        pytest.skip(reason)


@pytest.mark.deep
def test_a_flaky_regression_is_found_through_a_kill_and_a_dying_machine(tmp_path: Path) -> None:
    planted = plant(tmp_path / "tree", commits=32, at=19, percent=85, unbuildable=12)
    name, folder, log = "sim-bisect32", tmp_path / "bisect", tmp_path / "output.txt"
    process = started(command(planted, tmp_path, name, "--seen", "17/20", "--per-boot", "4"), log)

    # The machine dies in the middle of a test.
    until(lambda: in_a_test(folder), process, log)
    before = len(answers(folder))
    (machine,) = processes_mentioning(f"process=tdrlab-{name}")[:1]
    os.kill(machine, signal.SIGKILL)
    until(lambda: len(answers(folder)) > before, process, log)
    assert answers(folder)[before]["kind"] in ("none", "other"), "a death is no verdict"

    # And so does the bisect, some answers later.
    until(lambda: len(answers(folder)) > before + 2 and in_a_test(folder), process, log)
    kept = answers(folder)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gone = Deadline(60)
    while processes_mentioning(f"process=tdrlab-{name}") and gone.pause(0.2):
        pass
    assert not processes_mentioning(f"process=tdrlab-{name}"), "its machine died with it"

    argv = [*command(planted, tmp_path, name)[:6], "--resume", str(folder)]
    process = started(argv, log)
    assert process.wait(20 * STEP_S) in (0, 1), log.read_text()
    assert process.returncode == 0, log.read_text()
    assert answers(folder)[: len(kept)] == kept, "nothing that was answered was asked again"

    report = (folder / "report.txt").read_text()
    assert f"{planted.culprit} is the first bad commit" in report
    assert "fs_reclaim" in report
    mail = (folder / "mail.txt").read_text()
    assert f"#regzbot introduced: {planted.culprit}" in mail
    assert "*** DEADLOCK ***" in mail
    assert (folder / "posterior.svg").read_text().startswith("<svg")
    setting = Setting.load(folder)
    assert len(setting.history) == 32


@pytest.mark.deep
def test_a_regression_that_always_shows_takes_one_run_a_bit(tmp_path: Path) -> None:
    planted = plant(tmp_path / "tree", commits=8, at=5, percent=100)
    name, log = "sim-bisect8", tmp_path / "output.txt"
    process = started(command(planted, tmp_path, name, "--seen", "20/20"), log)
    assert process.wait(STEP_S * 4) == 0, log.read_text()
    assert f"{planted.culprit} is the first bad commit" in log.read_text()
    assert len([one for one in answers(tmp_path / "bisect") if one["kind"] != "none"]) <= 5
