"""The agent's watchdog where there is none; a real one bites in harness/tests/vm/test_guards.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.agent import watchdog
from harness.agent.commands import Commands
from harness.agent.errors import AgentError
from harness.agent.watchdog import Watchdog
from harness.deadline import Deadline


def test_no_watchdog_is_told_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot open the watchdog") as caught:
        Watchdog().start(str(tmp_path / "absent"), 10, None, Commands())
    assert caught.value.kind == "target"
    assert "watchdog.module" in caught.value.cure


def test_what_is_no_watchdog_is_let_go(tmp_path: Path) -> None:
    device = tmp_path / "watchdog"
    device.touch()
    dog = Watchdog()
    with pytest.raises(AgentError, match="this watchdog cannot be used"):
        dog.start(str(device), 10, None, Commands())
    assert device.read_bytes() == b"V", "the magic close, in case it was armed"
    dog.starve(now=True)
    dog.stop()
    dog.stop()


def test_it_is_fed_as_long_as_a_silent_controller_may_be_back(tmp_path: Path) -> None:
    device = tmp_path / "watchdog"
    dog = Watchdog()
    dog._fd, dog._patience = os.open(device, os.O_WRONLY | os.O_CREAT), 60.0
    dog._feeder = threading.Thread(target=dog._feed, args=(0.001,), daemon=True)
    dog._feeder.start()
    dog.starve(now=False)
    fed = device.stat().st_size
    deadline = Deadline(30)
    while device.stat().st_size <= fed + 1:
        assert deadline.pause(0.001), "it starves at once"
    receive, send = os.pipe()
    os.write(send, b"x")
    dog.outlast(receive)  # a successor came
    dog.starve(now=True)
    dog.outlast(receive)
    dog._feeder.join(30)
    assert not dog._feeder.is_alive()
    assert set(device.read_bytes()) == {0}, "never disarmed"
    os.close(receive)
    os.close(send)
    os.close(dog._fd)


def test_one_that_can_never_be_disarmed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watchdog0").mkdir()
    (tmp_path / "watchdog0" / "nowayout").write_text("1\n")
    monkeypatch.setattr(watchdog, "_CLASS", str(tmp_path))
    device = tmp_path / "device"
    device.touch()
    with pytest.raises(AgentError, match="watchdog0 can never be disarmed"):
        Watchdog().start(str(device), 10, None, Commands())
    assert device.read_bytes() == b""


def test_the_agent_of_a_killed_controller_hands_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "device"
    device.touch()
    code = "import sys; held = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", code, str(device), "lab-agent"]
    opened = os.open
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as former:
        assert former.stdout is not None
        former.stdout.readline()

        def busy(path: str, flags: int) -> int:
            if path == str(device) and former.poll() is None:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return opened(path, flags)

        monkeypatch.setattr(os, "open", busy)
        # A regular file; but it got so far.
        with pytest.raises(AgentError, match="this watchdog cannot be used"):
            Watchdog().start(str(device), 10, None, Commands())
        assert former.returncode == -signal.SIGTERM


def test_what_feeds_it_and_is_no_agent_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "device"
    device.touch()

    def busy(path: str, flags: int) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path, flags)

    with device.open() as _held:
        monkeypatch.setattr(os, "open", busy)
        with pytest.raises(AgentError, match="cannot open the watchdog") as caught:
            Watchdog().start(str(device), 10, None, Commands())
    assert "somebody else feeds it" in caught.value.cure
