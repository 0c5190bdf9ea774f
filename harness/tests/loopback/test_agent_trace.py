"""Traces and snapshots asked of a real agent on a machine that has little to show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent.errors import AgentError
from harness.agent.tracefs import find_root
from harness.agent.workload import COMM
from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.link.agent import Agent
from harness.tests.loopback.agent_process import LIMIT, common_python, connect, need_root

__all__: list[str] = []


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent, _ = connect(tmp_path)
    with agent:
        yield agent


def test_without_tracefs_it_is_the_target_that_cannot(agent: Agent) -> None:
    try:
        root = find_root()
    except AgentError:
        root = ""
    if root:
        pytest.skip(f"this machine has tracefs at {root}: harness/tests/vm/test_trace.py uses one")
    with pytest.raises(TargetError, match="tracefs is not mounted") as caught:
        agent.call("trace.start", Deadline(LIMIT), buffer_kb=64)
    assert "mount -t tracefs" in caught.value.cure


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("trace.sync", {}),
        ("trace.start", {"buffer_kb": 1}),
        ("collect", {"what": "trace", "cpu": 0}),
        ("snapshot", {"files": ["relative"]}),
        ("snapshot", {"limit": 0}),
    ],
)
def test_what_makes_no_sense_is_the_callers_fault(
    agent: Agent, op: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        agent.call(op, Deadline(LIMIT), **arguments)


def test_stopping_what_never_began_is_nothing(agent: Agent) -> None:
    assert agent.call("trace.stop", Deadline(LIMIT)) == {"stats": [], "sent": {}}


def test_a_snapshot_goes_on_behind_a_file_that_blocks(agent: Agent, tmp_path: Path) -> None:
    blocked, missing, long = tmp_path / "blocked", tmp_path / "missing", tmp_path / "long"
    os.mkfifo(blocked)
    long.write_bytes(b"\xffabc" * 100)
    wanted = [str(path) for path in (blocked, missing, long)]
    seen = agent.call("snapshot", Deadline(LIMIT), files=wanted, each=0.5, limit=8)
    files = {entry["path"]: entry for entry in seen["files"]}
    assert "did not return within" in files[wanted[0]]["error"]
    assert "No such file" in files[wanted[1]]["error"]
    assert files[wanted[2]] == {
        **{"path": wanted[2], "text": "\ufffdabc\ufffdabc", "truncated": True, "error": ""},
        **{"ns": files[wanted[2]]["ns"]},
    }
    assert seen["bufinfo"]["path"].endswith("/dma_buf/bufinfo")


def test_a_snapshots_time_is_limited_as_a_whole(agent: Agent, tmp_path: Path) -> None:
    paths = [tmp_path / f"blocked-{number}" for number in range(40)]
    for path in paths:
        os.mkfifo(path)
    seen = agent.call(
        "snapshot", Deadline(LIMIT), files=[str(path) for path in paths], each=0.2, seconds=0.5
    )
    assert seen["files"][-1]["error"] == "not read: there was no time left"
    assert seen["bufinfo"]["error"] == "not read: there was no time left"


def test_a_snapshot_shows_the_workloads_threads(tmp_path: Path) -> None:
    need_root()
    agent, _ = connect(tmp_path, python=common_python())
    with agent, agent.workload("null", "", Deadline(LIMIT)) as workload:
        seen = agent.call("snapshot", Deadline(LIMIT))
    ours = [task for task in seen["tasks"] if task["pid"] == workload.ready["pid"]]
    assert len(ours) >= 2
    assert {task["state"] for task in ours} <= set("SRD")
    # By that name the trace knows whose system calls to record.
    [main] = [task for task in ours if task["tid"] == task["pid"]]
    assert main["comm"] == f"{COMM}null" or main["error"]
