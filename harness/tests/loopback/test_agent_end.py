"""However the controller goes, the agent undoes what it did and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.link.agent import Agent
from harness.link.channel import ProcessChannel
from harness.tests.loopback.agent_process import (
    LIMIT,
    archive,
    common_python,
    connect,
    is_alive,
    need_root,
    until,
)

__all__: list[str] = []


class Scene:
    """An agent with two knobs turned, a workload that blocks and a command that runs."""

    def __init__(self, directory: Path, *serve: str, silence: float = 30.0) -> None:
        need_root()
        self.first, self.second = directory / "first", directory / "second"
        self.released = directory / "released"
        self.first.write_text("one\n")
        self.second.write_text("two\n")
        self.released.write_text("")
        self.agent, self.channel = connect(
            directory, *serve, python=common_python(), silence=silence
        )
        for path in (self.first, self.second):
            self.call("knob", path=str(path), value="new")
        self.workload = self.agent.workload(
            "null", "", Deadline(LIMIT), passing=[str(self.released)]
        )
        self.agent_pid = self.call("hello")["pid"]
        self.workload_pid = self.workload.ready["pid"]
        self.failures: list[Exception] = []
        self.waiter = threading.Thread(target=self._block)
        self.waiter.start()
        assert self.first.read_text() == "new"

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.agent.call(op, Deadline(LIMIT), **arguments)

    def _block(self) -> None:
        try:
            self.workload.call("block", Deadline(LIMIT * 2), seconds=LIMIT * 2)
        except (LabError, TargetError) as error:
            self.failures.append(error)

    def check_undone(self) -> None:
        assert until(lambda: not is_alive(self.agent_pid)), "the agent did not end"
        assert self.first.read_text() == "one\n"
        assert self.second.read_text() == "two\n"
        assert not is_alive(self.workload_pid)
        assert self.released.read_text() == "released\n"
        self.waiter.join(LIMIT)
        assert not self.waiter.is_alive(), "a pending call was left waiting"


def test_bye_reports_what_was_undone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    report = scene.agent.close(Deadline(LIMIT))
    assert report is not None
    assert report["restored"] == [str(scene.second), str(scene.first)], "last turned first"
    assert report["failed"] == []
    assert [one["how"] for one in report["workloads"]] == ["closed"]
    scene.check_undone()
    assert scene.channel.process.returncode == 0
    assert scene.agent.close() is None
    with pytest.raises(LabError):
        scene.call("echo", data="x")


def test_a_detached_command_outlives_the_agent(tmp_path: Path) -> None:
    agent, channel = connect(tmp_path)
    go, gone = tmp_path / "go", tmp_path / "gone"
    script = f"for i in $(seq 1200); do [ -e {go} ] && exec touch {gone}; sleep 0.05; done"
    pid = agent.call("detach", Deadline(LIMIT), argv=["sh", "-c", script])["pid"]
    assert agent.close(Deadline(LIMIT)) is not None
    assert channel.process.returncode == 0
    assert is_alive(pid)
    go.touch()
    assert until(gone.exists)


def test_a_closed_channel(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.channel.process.stdin is not None
    scene.channel.process.stdin.close()
    scene.check_undone()
    assert until(lambda: not scene.agent.alive)
    scene.agent.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    scene = Scene(tmp_path)
    os.kill(scene.agent_pid, number)
    scene.check_undone()
    scene.agent.close()


def test_a_silent_controller(tmp_path: Path) -> None:
    """Its pipes stay open, but it does not speak: a host that hangs, a link that is cut."""
    scene = Scene(tmp_path, "--silence", "3")
    scene.agent._wire._stop_beating.set()
    scene.check_undone()
    scene.agent.close()


def test_a_silent_agent(tmp_path: Path) -> None:
    scene = Scene(tmp_path, silence=3.0)
    os.kill(scene.agent_pid, signal.SIGSTOP)
    try:
        with pytest.raises(LabError) as caught:
            scene.agent.call("echo", Deadline(LIMIT * 2), data="x")
        assert "silent for 3 s" in caught.value.what
        assert caught.value.where
        assert caught.value.cure
        assert not scene.agent.alive
    finally:
        os.kill(scene.agent_pid, signal.SIGCONT)
    scene.check_undone()
    scene.agent.close()


def test_a_killed_agent_fails_all_calls_and_frees_its_workloads(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    os.kill(scene.agent_pid, signal.SIGKILL)
    scene.waiter.join(LIMIT)
    assert len(scene.failures) == 1
    assert isinstance(scene.failures[0], LabError)
    assert until(lambda: not is_alive(scene.workload_pid)), "a workload must see its stdin end"
    assert scene.released.read_text() == "released\n"
    assert until(lambda: scene.first.read_text() == "one\n"), "nobody put the knob back"
    assert until(lambda: scene.second.read_text() == "two\n")
    scene.agent.close()


def test_a_knob_that_was_restored_is_left_alone_by_the_guard(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert sorted(scene.call("restore")["restored"]) == sorted(
        map(str, (scene.first, scene.second))
    )
    scene.call("knob", path=str(scene.second), value="newer")
    scene.first.write_text("somebody else's")
    os.kill(scene.agent_pid, signal.SIGKILL)
    scene.waiter.join(LIMIT)
    assert until(lambda: scene.second.read_text() == "two\n")
    assert scene.first.read_text() == "somebody else's"
    scene.agent.close()


def test_a_standing_knob_outlives_restore_and_not_a_killed_agent(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    standing, both = tmp_path / "standing", tmp_path / "both"
    for path in (standing, both):
        path.write_text("off\n")
        scene.call("knob", path=str(path), value="on", standing=True)
    scene.call("knob", path=str(both), value="loud")
    scene.call("restore")
    assert (standing.read_text(), both.read_text()) == ("on", "on")
    scene.call("knob", path=str(both), value="loud")
    os.kill(scene.agent_pid, signal.SIGKILL)
    scene.waiter.join(LIMIT)
    assert until(lambda: standing.read_text() == "off\n"), "nobody put it back"
    assert both.read_text() == "off\n"
    scene.agent.close()


def test_a_killed_controller(tmp_path: Path) -> None:
    """A process that is the controller, killed by SIGKILL with everything in flight."""
    need_root()
    knob, released, pid = tmp_path / "knob", tmp_path / "released", tmp_path / "pid"
    knob.write_text("old\n")
    released.write_text("")
    argv = [common_python(), str(archive(tmp_path)), "serve"]
    script = textwrap.dedent(
        f"""
        from harness.deadline import Deadline
        from harness.link.agent import Agent
        from harness.link.channel import ProcessChannel
        agent = Agent(ProcessChannel({argv!r}), Deadline({LIMIT}))
        agent.call("knob", Deadline({LIMIT}), path={str(knob)!r}, value="new")
        workload = agent.workload(
            "null", "", Deadline({LIMIT}), passing=[{str(released)!r}])
        with open({str(pid)!r}, "w") as file:
            file.write(f"{{agent.call('hello', Deadline({LIMIT}))['pid']}} ")
            file.write(f"{{workload.ready['pid']}}\\n")
        workload.call("block", Deadline(600), seconds=600)
        """
    )
    root = Path(__file__).parents[3]
    controller = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    try:
        assert until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        assert knob.read_text() == "new"
    finally:
        controller.kill()
        controller.wait()
    agent_pid, workload_pid = map(int, pid.read_text().split())
    assert until(lambda: not is_alive(agent_pid))
    assert knob.read_text() == "old\n"
    assert released.read_text() == "released\n"
    assert not is_alive(workload_pid)


def test_a_controller_that_talks_nonsense(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.channel.send(b"\xff" * 64)
    scene.check_undone()
    scene.agent.close()


def test_a_restore_that_fails_is_reported_and_stops_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.second.unlink()
    scene.second.mkdir()
    reply = scene.call("restore")
    assert reply["restored"] == [str(scene.first)]
    assert [one["path"] for one in reply["failed"]] == [str(scene.second)]
    assert scene.call("knobs")["turned"] == {str(scene.second): "two\n"}
    scene.second.rmdir()
    scene.second.write_text("")
    assert scene.call("restore")["restored"] == [str(scene.second)]
    scene.agent.close()
    scene.check_undone()


def test_an_agent_refuses_a_controller_of_another_version(tmp_path: Path) -> None:
    from harness.agent import frames

    run = subprocess.run(
        [sys.executable, str(archive(tmp_path)), "serve"],
        input=frames.greeting(frames.PROTOCOL + 1),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert run.returncode == 3
    said = run.stderr.decode()
    assert f"protocol {frames.PROTOCOL + 1}" in said
    assert f"this agent {frames.PROTOCOL}" in said


def test_an_old_python_runs_it(tmp_path: Path) -> None:
    places = [
        Path("/usr/bin/python3.9"),
        *Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9"),
    ]
    python = next((str(place) for place in places if place.exists()), None)
    if python is None:
        pytest.skip("no Python 3.9 here: install python3.9 to test the oldest supported target")
    channel = ProcessChannel([python, str(archive(tmp_path)), "serve"])
    with Agent(channel, Deadline(LIMIT)) as agent:
        assert agent.call("hello", Deadline(LIMIT))["python"].startswith("3.9.")
        for op in ("health", "cards", "clients", "clocks", "knobs"):
            agent.call(op, Deadline(LIMIT))
        agent.call("read", Deadline(LIMIT), path="/proc/version")
        agent.call("run", Deadline(LIMIT), argv=["true"])
        with contextlib.suppress(TargetError):  # a target may lack libudev, an import may not fail
            agent.collect("uevents", lambda _data: None, Deadline(LIMIT))
    # As a workload's process, too, without the agent's dropping of privileges.
    run = subprocess.run(
        [python, str(archive(tmp_path)), "workload", "null"],
        input=b'{"id": 1, "op": "block", "args": {"seconds": 0.1}}\n{"id": 2, "op": "nope"}\n',
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert b'"id": 1, "ok": true' in run.stdout
    assert b'"id": 2, "ok": false' in run.stdout
    amdgpu = subprocess.run(
        [python, str(archive(tmp_path)), "workload", "amdgpu", "--node", "/nonexistent"],
        capture_output=True,
        timeout=LIMIT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert amdgpu.returncode == 4
    assert b"cannot be opened" in amdgpu.stdout
