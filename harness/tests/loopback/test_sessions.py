"""Sessions that are forked: they end as pytest does, when they are asked to, and with the night."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.lab.reservation import started
from harness.lab.sessions import PYTEST, Process, start
from harness.tests.inner import ROOT

# Longest that a session takes to begin or end on a machine that does much else, in seconds.
PATIENCE_S = 300.0
CASES = """
import os, time

def test_passes():
    assert os.environ["LAB_TESTED"] == "yes"

def test_fails():
    print("how it failed")
    assert False

def test_waits(tmp_path_factory):
    open(os.environ["FLAG"], "w").close()
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    (folder / "test_cases.py").write_text(CASES)
    return folder


def begin(place: Path, test: str) -> Process:
    words = [*PYTEST, "-pno:cacheprovider", f"{place}/test_cases.py::{test}"]
    env = {"LAB_TESTED": "yes", "FLAG": str(place / "flag")}
    return start(words, place / f"{test}.txt", env)


def ended(process: Process) -> int:
    deadline = Deadline(PATIENCE_S)
    while (status := process.poll()) is None:
        assert deadline.pause(0.02)
    return status


def waits(place: Path, process: Process) -> None:
    deadline = Deadline(PATIENCE_S)
    while not (place / "flag").exists():
        assert process.poll() is None
        assert deadline.pause(0.02)
    (place / "flag").unlink()


def test_each_has_its_own_status_and_output(place: Path) -> None:
    passes, fails = (begin(place, f"test_{name}") for name in ("passes", "fails"))
    assert (ended(fails), ended(passes)) == (1, 0)
    assert "how it failed" in (place / "test_fails.txt").read_text()
    assert "1 passed" in (place / "test_passes.txt").read_text()
    assert passes.pid != fails.pid


def test_it_is_asked_to_end(place: Path) -> None:
    session = begin(place, "test_waits")
    waits(place, session)
    assert os.getpgid(session.pid) == session.pid
    session.terminate()
    assert ended(session) == -signal.SIGTERM
    session.terminate()  # nobody


def test_what_is_no_pytest_is_executed(place: Path) -> None:
    code = "import os; print(os.environ['WORD']); raise SystemExit(3)"
    log = place / "other.txt"
    assert ended(start([sys.executable, "-c", code], log, {"WORD": "said"})) == 3
    assert log.read_text() == "said\n"


@pytest.mark.deep
def test_they_end_with_the_fork_server(place: Path) -> None:
    session = begin(place, "test_waits")
    waits(place, session)
    status = Path(f"/proc/{session.pid}/status").read_text()
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    os.kill(int(parent), signal.SIGKILL)
    assert ended(session) != 0
    deadline = Deadline(PATIENCE_S)
    while started(session.pid):
        assert deadline.pause(0.02)
    assert ended(begin(place, "test_passes")) == 0  # of another one


@pytest.mark.deep
def test_they_end_with_who_is_killed(place: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from harness.tests.loopback import "
        "test_sessions as t\n"
        "place = Path(sys.argv[1])\n"
        "p = t.begin(place, 'test_waits'); t.waits(place, p); print(p.pid, flush=True)\n"
        "time.sleep(600)"
    )
    night = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert night.stdout is not None
    pid = int(night.stdout.readline())
    night.kill()
    night.communicate()
    deadline = Deadline(PATIENCE_S)
    while started(pid):
        assert deadline.pause(0.02)
