"""Calls, files, commands and streams through a real agent process."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import host
from harness.agent import frames
from harness.deadline import Deadline
from harness.errors import LabError, TargetError, UsageError
from harness.link.agent import Agent
from harness.link.channel import ProcessChannel
from harness.tests.loopback.agent_process import LIMIT, connect, need_root, until

__all__: list[str] = []


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent, _ = connect(tmp_path)
    with agent:
        yield agent


def call(agent: Agent, op: str, **arguments: Any) -> dict[str, Any]:
    return agent.call(op, Deadline(LIMIT), **arguments)


def test_facts_are_this_machines(agent: Agent) -> None:
    facts = call(agent, "hello")
    assert facts["protocol"] == frames.PROTOCOL
    assert facts["uname"]["release"] == os.uname().release
    assert facts["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts["clocks"]["monotonic"] > 0
    health = call(agent, "health")
    assert health["boot_id"] == facts["boot_id"]
    assert health["taint"] == int(Path("/proc/sys/kernel/tainted").read_text())
    assert (health["debug_locks"] is None) == (not Path("/proc/lockdep_stats").exists())
    assert isinstance(call(agent, "cards")["cards"], list)
    assert isinstance(call(agent, "clients")["clients"], list)


def test_many_threads_get_their_own_replies(agent: Agent) -> None:
    def echoes(start: int) -> bool:
        wanted = [f"{start}-{n}" for n in range(50)]
        return [call(agent, "echo", data=data)["data"] for data in wanted] == wanted

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(echoes, range(16)))


@pytest.mark.parametrize(
    ("op", "arguments", "words"),
    [
        ("nonsense", {}, "no operation 'nonsense'"),
        ("echo", {}, "echo needs data"),
        ("echo", {"data": 1}, "data is 1"),
        ("echo", {"data": "", "more": 1}, "no argument more"),
        ("read", {"path": "relative"}, "no absolute path"),
        ("read", {"path": "/proc/version", "limit": True}, "limit is True"),
        ("read", {"path": "/proc/version", "seconds": -1}, "seconds is -1"),
        ("write", {"path": "/x", "data": "?"}, "not base64"),
        ("run", {"argv": []}, "needs a command"),
        ("detach", {"argv": []}, "needs a command"),
        ("mark", {"text": "two\nlines"}, "one line"),
        ("collect", {"what": "nothing"}, "nothing collects nothing"),
        ("collect.stop", {"stream": 77}, "no collector on stream 77"),
        ("workload.call", {"workload": 9, "call": "x"}, "no workload 9"),
        ("workload.start", {"driver": "null", "user": "root"}, "never runs as root"),
        ("workload.start", {"driver": "null", "user": 0}, "never runs as root"),
        ("workload.start", {"driver": "null", "user": "no-such"}, "no user no-such"),
    ],
)
def test_misuse_is_the_callers_fault(
    agent: Agent, op: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        call(agent, op, **arguments)
    assert words in caught.value.what
    assert caught.value.where
    assert caught.value.cure


def test_what_is_not_there_is_the_targets_fault(agent: Agent) -> None:
    with pytest.raises(TargetError, match="No such file") as caught:
        call(agent, "read", path="/sys/kernel/debug/no/such/file")
    assert "/sys/kernel/debug/no/such/file" in caught.value.where
    with pytest.raises(TargetError, match="cannot be started"):
        call(agent, "run", argv=["/no/such/program"])


def test_files_are_read_written_and_listed(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10)
    reply = call(agent, "read", path=str(path))
    assert base64.b64decode(reply["data"]) == path.read_bytes()
    assert not reply["truncated"]
    reply = call(agent, "read", path=str(path), limit=100, offset=50)
    assert base64.b64decode(reply["data"]) == path.read_bytes()[50:150]
    assert reply["truncated"]
    data = base64.b64encode(b"\0new").decode()
    assert call(agent, "write", path=str(path), data=data) == {"written": 4}
    assert call(agent, "write", path=str(path), data=data, append=True) == {"written": 4}
    assert path.read_bytes() == b"\0new\0new"
    assert "file" in call(agent, "listdir", path=str(tmp_path))["names"]
    with pytest.raises(TargetError):
        call(agent, "write", path=str(tmp_path / "absent"), data=data)
    assert not (tmp_path / "absent").exists()


def test_a_large_file_fits_a_frame(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(8 << 20))
    reply = call(agent, "read", path=str(path), limit=8 << 20)
    assert base64.b64decode(reply["data"]) == path.read_bytes()


def test_a_read_that_blocks_blocks_nobody(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    caught: list[TargetError] = []

    def read() -> None:
        with pytest.raises(TargetError) as error:
            call(agent, "read", path=str(fifo), seconds=2.0)
        caught.append(error.value)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    answered = 0
    while any(reader.is_alive() for reader in readers):
        assert call(agent, "echo", data="x") == {"data": "x"}
        answered += 1
    assert answered > 8
    assert len(caught) == len(readers)
    assert "did not return within 2 s" in caught[0].what
    assert str(fifo) in caught[0].where


def test_a_command_has_status_output_and_input(agent: Agent) -> None:
    reply = call(agent, "run", argv=["sh", "-c", "cat; echo no >&2; exit 3"], stdin="caf\udce9")
    assert reply["status"] == 3
    assert reply["stdout"].encode("utf-8", "surrogateescape") == b"caf\xe9"
    assert reply["stderr"] == "no\n"
    assert not reply["timed_out"]
    reply = call(agent, "run", argv=["sh", "-c", "kill -SEGV $$"])
    assert (reply["status"], reply["signal"]) == (None, 11)


def test_a_commands_output_is_bounded(agent: Agent) -> None:
    reply = call(agent, "run", argv=["head", "-c", "3000000", "/dev/zero"])
    assert reply["truncated"]
    assert len(reply["stdout"]) == 1 << 20


def test_a_late_command_dies_with_all_it_started(agent: Agent, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 100 & echo $! $$ > {pids}; wait"
    reply = call(agent, "run", argv=["sh", "-c", script], timeout=2.0)
    assert reply["timed_out"]
    assert reply["signal"] == 9
    for pid in pids.read_text().split():
        assert until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]


def test_a_command_that_leaves_a_daemon_behind_returns(agent: Agent) -> None:
    reply = call(agent, "run", argv=["sh", "-c", "sleep 3 & echo done"], timeout=20.0)
    assert (reply["status"], reply["stdout"], reply["timed_out"]) == (0, "done\n", False)


def test_marks_are_found_in_the_raw_kernel_log(tmp_path: Path) -> None:
    need_root()
    if not os.access("/dev/kmsg", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kmsg here: run on a machine, not in a container")
    events: list[dict[str, Any]] = []
    agent, _ = connect(tmp_path, on_event=events.append)
    with agent:
        kept = bytearray()
        collection = agent.collect("kmsg", kept.extend, Deadline(LIMIT), **{"from": "end"})
        marks = [(f"test {n} of {os.getpid()}", 0) for n in range(30)]
        marks = [(text, call(agent, "mark", text=text)["mono"]) for text, _ in marks]
        wanted = [f"lab: {text} mono={mono}".encode() for text, mono in marks]
        assert until(lambda: all(line in kept for line in wanted))
        collection.stop(Deadline(LIMIT))
    records = [line for line in bytes(kept).split(b"\n") if line and not line.startswith(b" ")]
    numbers = [int(record.split(b",", 2)[1]) for record in records]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "not one record lost"
    assert not [event for event in events if event["event"] == "kmsg_lost"]


def test_a_window_closes_in_one_call(agent: Agent, tmp_path: Path) -> None:
    need_root()
    if not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("no /dev/kmsg here: run on a machine, not in a container")
    knob, lost = tmp_path / "knob", tmp_path / "lost"
    for path in (knob, lost):
        path.write_text("before\n")
        call(agent, "knob", path=str(path), value="within")
    lost.unlink()
    opened = call(agent, "window.open", text="a window opens")
    assert opened["trace"] == {}, "nobody asked for it"
    assert knob.read_text() == "within"
    # A trace that is off is no reason to leave a knob as it is.
    closed = call(agent, "window.close", text="a window closes", trace=True)
    assert "the trace is off" in closed["trace"]["behind"]
    assert knob.read_text() == "before\n"
    assert [failed["path"] for failed in closed["failed"]] == [str(lost)]
    assert closed["mono"] > opened["mono"]
    assert closed["health"]["boot_id"] == opened["health"]["boot_id"] == host.boot_id()


def test_uevents_of_a_module_parameterless_device(tmp_path: Path) -> None:
    need_root()
    trigger = Path("/sys/devices/virtual/mem/null/uevent")
    if not os.access(trigger, os.W_OK):
        pytest.skip(f"{trigger} is not writable here")
    agent, _ = connect(tmp_path)
    with agent:
        kept = bytearray()
        try:
            agent.collect("uevents", kept.extend, Deadline(LIMIT), subsystems=["mem"])
        except TargetError as error:
            pytest.skip(f"no uevents here: {error.what}")
        trigger.write_text("change\n")
        if not until(lambda: b"/devices/virtual/mem/null" in kept):
            pytest.skip("this kernel sends no uevents to this network namespace")
        line = json.loads(bytes(kept).splitlines()[0])
        assert (line["action"], line["subsystem"]) == ("change", "mem")
        assert line["mono"] > 0


def test_an_agent_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    greeting = frames.greeting(frames.PROTOCOL + 1)
    path.write_text(f"import sys; sys.stdout.buffer.write({greeting!r}); sys.stdout.flush()\n")
    with pytest.raises(LabError) as caught:
        Agent(ProcessChannel(["python3", str(path)]), Deadline(LIMIT))
    assert f"protocol {frames.PROTOCOL + 1}" in caught.value.what
    assert f"harness {frames.PROTOCOL}" in caught.value.what


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo bash: python3: command not found", "command not found"),
        ("exit 1", "ended before its greeting"),
        ("sleep 20", "no greeting from the agent within 2 s"),
    ],
)
def test_what_is_no_agent_is_said(script: str, words: str) -> None:
    with pytest.raises(LabError) as caught:
        Agent(ProcessChannel(["sh", "-c", f"exec 2>&1; {script}"]), Deadline(2.0))
    assert words in caught.value.what
    assert caught.value.cure


def test_a_late_call_names_operation_and_seconds(agent: Agent) -> None:
    with pytest.raises(LabError, match=r"run was not answered within 0\.5 s"):
        agent.call("run", Deadline(0.5), argv=["sleep", "3"])
    assert call(agent, "echo", data="still here") == {"data": "still here"}


def test_a_sink_that_cannot_keep_evidence_ends_the_link(tmp_path: Path) -> None:
    need_root()

    def full(_data: bytes) -> None:
        raise OSError(28, "No space left on device")

    agent, _ = connect(tmp_path)
    agent.collect("kmsg", full, Deadline(LIMIT), **{"from": "start"})
    try:
        assert until(lambda: not agent.alive)
        with pytest.raises(LabError, match="No space left"):
            agent.call("echo", Deadline(LIMIT), data="x")
    finally:
        agent.close()
