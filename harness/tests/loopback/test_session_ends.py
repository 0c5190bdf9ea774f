"""Sessions that end before their time: killed, told to, robbed of their target or their disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.tests.inner import Session
from harness.tests.loopback.posing import VICTIMS, lab


def begun(flag: Path, process: subprocess.Popen[bytes]) -> None:
    """The victim is in its test."""
    deadline = Deadline(300)
    while not flag.exists():
        assert process.poll() is None, "the session ended before"
        assert deadline.pause(0.05), "the session did not reach its test"


def test_lost_reservation_stops_the_run_on_that_target(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits or zz")
    begun(flag, process)
    assert "box taken from" in lab(session, "unlock", "box").stdout
    flag.unlink()
    assert process.wait(300) == 1
    told = (session.runs / "output.txt").read_text()
    waited = session.verdicts()["test_waits_to_be_killed"]
    # The other may have been at work while it ran: whatever it saw is no evidence.
    assert waited.outcome == "error"
    assert waited.reason == "the reservation is lost: someone broke the lock"
    assert "test_zz_after_the_lock_was_lost" in told
    assert "lab error" in told
    assert "Traceback" not in told


def _killed(session: Session, flag: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kill a session in its test; `flag` is down then, and up again where that test runs again."""
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits")
    begun(flag, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    flag.unlink()
    return flag


def test_a_killed_session_names_the_test_and_resumes_without_it(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = _killed(session, tmp_path / "flag", monkeypatch)
    (run,) = session.run_dirs()
    assert journal.unfinished(run.journal.path) == [f"{VICTIMS}::test_waits_to_be_killed"]
    # Of a copy: once it is judged nobody need say so.
    shutil.copytree(run.path, tmp_path / run.path.name)
    replayed = lab(session, "replay", str(tmp_path / run.path.name)).stdout
    assert "incomplete" in replayed
    assert "test_waits_to_be_killed" in replayed
    done = session.run(VICTIMS, "-k", "waits or quiet", "--allow-blind", "--resume")
    (run,) = session.run_dirs()
    outcomes = {name: v.outcome for name, v in session.verdicts().items()}
    assert outcomes == {"test_waits_to_be_killed": "incomplete", "test_quiet": "blind"}
    assert not flag.exists(), "it ran again"
    assert "not run again" in done.stdout
    started = [e["test"] for e in journal.read(run.journal.path) if e["what"] == "test-start"]
    assert started == [f"{VICTIMS}::test_waits_to_be_killed", f"{VICTIMS}::test_quiet"]


def test_a_session_that_was_killed_in_its_last_test_is_settled_without_running_any(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = _killed(session, tmp_path / "flag", monkeypatch)
    asked = session.run(VICTIMS, "-k", "waits", "--resume", "--collect-only")
    assert (asked.returncode, session.verdicts()) == (5, {})
    done = session.run(VICTIMS, "-k", "waits", "--resume")
    assert "not run again" in done.stdout
    assert session.verdicts()["test_waits_to_be_killed"].outcome == "incomplete"
    assert not flag.exists(), "it ran again"
    (run,) = session.run_dirs()
    told = [e["what"] for e in journal.read(run.journal.path)]
    assert told[-3:] == ["test-end", "run-start", "run-end"]
    assert "box: 1 incomplete" in done.stdout


def test_sigterm_ends_a_session_as_ctrl_c_does(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits")
    begun(flag, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 2
    (run,) = session.run_dirs()
    assert [e["how"] for e in journal.read(run.journal.path) if e["what"] == "run-end"] == [
        "interrupted"
    ]


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full, as long as the context lasts."""
    small = at / "small"
    small.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(small)]
    if subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield small
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_disk_that_fills_up_costs_one_test(session: Session, tmp_path: Path) -> None:
    with small_disk(tmp_path, "8m") as small:
        session.runs = small / "runs"
        done = session.run(str(Path(VICTIMS).with_name("full_disk.py")), "--allow-blind")
        got = {name: (v.outcome, v.reason) for name, v in session.verdicts().items()}
    assert got["test_a_disk_fills_up"][0] == "error", done.stdout
    assert "No space left on device" in got["test_a_disk_fills_up"][1]
    assert got["test_b_after_the_disk"][0] == "blind", done.stdout


def test_full_disk_here_is_an_error_of_the_lab(session: Session, tmp_path: Path) -> None:
    with small_disk(tmp_path, "32k") as small:
        session.runs = small / "runs"
        done = session.run(VICTIMS, "-k", "quiet")
    assert done.returncode == 1, done.stdout
    assert "No space left" in done.stdout
    assert "free space" in done.stdout
    assert "Traceback" not in done.stdout
