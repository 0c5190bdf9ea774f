"""Two runs on one target, as real processes; some are killed.

The second is told who holds it, and a dead holder keeps nobody out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.lab.reservation import Reservation, folder

__all__: list[str] = []

_HOLD = """
import sys
from harness.lab.reservation import Reservation
with Reservation.take("box", "lab run --target box", float(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
_Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def hold() -> Iterator[_Start]:
    """Starts a process that holds "box" until it reads a line."""
    started: list[subprocess.Popen[str]] = []

    def start(ttl_s: float = 60.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(ttl_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_taker_is_told_who_holds_it(hold: _Start) -> None:
    other = hold()
    with pytest.raises(LabError) as caught:
        Reservation.take("box", "me too")
    said = str(caught.value)
    assert said.startswith("box: held by ")
    assert f"pid {other.pid} " in said
    assert "lab run --target box" in said
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", said)
    assert "lab unlock box" in caught.value.cure
    held = Reservation.holder("box")
    assert held is not None
    assert (held.pid, held.command) == (other.pid, "lab run --target box")
    # Other targets are free.
    Reservation.take("other-box", "me").release()


def test_released_it_is_free(hold: _Start) -> None:
    other = hold()
    other.communicate("done\n")
    assert Reservation.holder("box") is None
    with Reservation.take("box", "mine") as mine:
        assert mine.taken_over == ""
        with pytest.raises(LabError, match=f"pid {os.getpid()} "):
            Reservation.take("box", "mine again")
    mine.release()
    assert Reservation.holder("box") is None


@pytest.mark.parametrize("reaped", [True, False])
def test_a_holder_killed_is_taken_over(
    hold: _Start, caplog: pytest.LogCaptureFixture, reaped: bool
) -> None:
    other = hold()
    other.send_signal(signal.SIGKILL)
    if reaped:
        other.wait()
    else:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert Reservation.holder("box") is None
    with Reservation.take("box", "mine") as mine:
        assert f"pid {other.pid} is dead" in mine.taken_over
        assert "lab run --target box" in mine.taken_over
        assert mine.taken_over in caplog.text


def test_a_pid_used_again_is_not_the_holder(hold: _Start) -> None:
    hold()
    path = folder() / "box.lock"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "pid": os.getpid()}))
    assert Reservation.holder("box") is None


def test_a_holder_that_stopped_renewing_is_taken_over_and_learns_it(hold: _Start) -> None:
    other = hold(0.6)
    other.send_signal(signal.SIGSTOP)
    time.sleep(0.8)
    with Reservation.take("box", "mine") as mine:
        assert "not renewed" in mine.taken_over
        other.send_signal(signal.SIGCONT)
        other.communicate("done\n")
        held = Reservation.holder("box")
        assert held is not None
        assert held.pid == os.getpid()


def test_it_is_renewed_while_it_is_held(hold: _Start) -> None:
    hold(0.5)
    until = Deadline(2)
    while until.pause(0.1):
        assert Reservation.holder("box") is not None


def test_a_broken_lock_is_learnt_by_its_holder() -> None:
    with Reservation.take("box", "mine", 0.3) as mine:
        mine.check()
        held = Reservation.break_lock("box")
        assert held is not None
        assert held.command == "mine"
        with Reservation.take("box", "theirs") as theirs:
            time.sleep(0.5)
            with pytest.raises(LabError, match=r"lost: taken by .* theirs"):
                mine.check()
            mine.release()
            theirs.check()
            assert Reservation.holder("box") is not None
    assert Reservation.break_lock("box") is None


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    script = """
import sys, time
from harness.errors import LabError
from harness.lab.reservation import Reservation
sys.stdin.readline()
try:
    Reservation.take("box", "race")
    print("won", flush=True)
    time.sleep(2)
except LabError:
    print("lost", flush=True)
"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [racer.communicate()[0].strip() for racer in racers]
    assert sorted(results) == ["lost"] * 5 + ["won"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"target": 1}'])
def test_a_lock_file_of_garbage_is_taken_over(content: bytes) -> None:
    Reservation.take("box", "mine").release()
    (folder() / "box.lock").write_bytes(content)
    assert Reservation.holder("box") is None
    with Reservation.take("box", "mine") as mine:
        assert "unreadable" in mine.taken_over


def test_a_lock_of_another_host_counts_until_it_expires(hold: _Start) -> None:
    other = hold()
    path = folder() / "box.lock"
    facts = {**json.loads(path.read_text()), "host": "elsewhere", "pid": 1 << 22}
    other.kill()
    path.write_text(json.dumps(facts))
    with pytest.raises(LabError, match="on elsewhere"):
        Reservation.take("box", "mine")
    path.write_text(json.dumps({**facts, "expires": time.time() - 1}))
    Reservation.take("box", "mine").release()


def test_names_that_are_no_file_names() -> None:
    for name in ("", "../box", "a/b", ".hidden", "x" * 64):
        with pytest.raises(UsageError):
            Reservation.take(name, "mine")


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(LabError, match="cannot use the lock") as caught:
        Reservation.take("box", "mine")
    assert "XDG_STATE_HOME" in caught.value.cure
