"""How workload processes run: as whom, with what, and how each of their ends is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.link.agent import Agent
from harness.tests.loopback.agent_process import (
    LIMIT,
    common_python,
    connect,
    is_alive,
    need_root,
    until,
)

__all__: list[str] = []

_GROUP = 4242


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    need_root()
    agent, _ = connect(tmp_path, python=common_python())
    with agent:
        yield agent


def node(directory: Path, group: int, name: str = "node") -> str:
    """A file in the place of a DRM node: only its group matters."""
    path = directory / name
    path.write_bytes(b"")
    os.chown(path, 0, group)
    return str(path)


def test_it_has_the_nodes_groups_and_no_privileges(agent: Agent, tmp_path: Path) -> None:
    render, primary = node(tmp_path, _GROUP), node(tmp_path, _GROUP + 1, "primary")
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o600)
    with agent.workload(
        "null", render, Deadline(LIMIT), primary=primary, bailout=5.0, passing=[str(secret)]
    ) as workload:
        who = workload.call("who", Deadline(LIMIT))
    status = who["status"]
    nobody = "65534"
    assert status["Uid"].split() == [nobody] * 4
    assert status["Gid"].split() == [str(_GROUP)] * 4
    assert sorted(map(int, status["Groups"].split())) == [_GROUP, _GROUP + 1]
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert who["passed"] == [str(secret)]
    assert who["bailout"] == 5.0
    assert who["session"]
    assert who["cwd"] == "/"
    assert who["sealed"], "it could change the code of the next workload"
    assert not [name for name in who["environment"] if name.startswith(("SSH", "SUDO", "PYTHON"))]


def test_another_user_can_be_named(agent: Agent, tmp_path: Path) -> None:
    with agent.workload("null", node(tmp_path, _GROUP), Deadline(LIMIT), user=4321) as workload:
        assert workload.ready["uids"] == [4321] * 4


def test_a_node_of_roots_group_is_refused(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="group is root's") as caught:
        agent.workload("null", node(tmp_path, 0), Deadline(LIMIT))
    assert "udev" in caught.value.cure


def test_a_missing_node_driver_or_file_is_named(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such node"):
        agent.workload("null", "/dev/dri/renderD999", Deadline(LIMIT))
    with pytest.raises(UsageError, match="no workload for driver nouveau") as caught:
        agent.workload("nouveau", node(tmp_path, _GROUP), Deadline(LIMIT))
    assert "amdgpu" in caught.value.cure
    with pytest.raises(TargetError, match="cannot be opened to be passed on"):
        agent.workload("null", "", Deadline(LIMIT), passing=["/no/such/sw_sync"])
    with pytest.raises(TargetError, match=r"cannot be opened|not amdgpu|DRM_IOCTL"):
        agent.workload("amdgpu", node(tmp_path, _GROUP), Deadline(LIMIT))


def test_a_release_overtakes_the_wait(agent: Agent) -> None:
    with agent.workload("null", "", Deadline(LIMIT)) as workload:
        result: dict[str, Any] = {}

        def block() -> None:
            result.update(workload.call("block", Deadline(LIMIT), seconds=LIMIT))

        waiter = threading.Thread(target=block)
        waiter.start()
        workload.call("release", Deadline(LIMIT))
        waiter.join(LIMIT)
        assert result == {"released": True}


def test_two_workloads_run_at_once(agent: Agent) -> None:
    with (
        agent.workload("null", "", Deadline(LIMIT)) as first,
        agent.workload("null", "", Deadline(LIMIT)) as second,
    ):
        waiter = threading.Thread(
            target=first.call, args=("block", Deadline(LIMIT)), kwargs={"seconds": LIMIT}
        )
        waiter.start()
        assert second.call("who", Deadline(LIMIT))["status"]
        assert waiter.is_alive()
        first.call("release", Deadline(LIMIT))
        waiter.join(LIMIT)


def test_a_death_is_told_with_its_last_words(agent: Agent) -> None:
    heard = bytearray()
    with agent.workload("null", "", Deadline(LIMIT), stderr=heard.extend) as workload:
        with pytest.raises(TargetError) as caught:
            workload.call("die", Deadline(LIMIT))
        assert "status 7" in caught.value.what
        assert "told to die" in caught.value.what
        with pytest.raises(TargetError, match="status 7"):
            workload.call("who", Deadline(LIMIT))
        assert until(lambda: b"told to die" in heard)


def test_a_late_answer_confuses_nobody(agent: Agent) -> None:
    with agent.workload("null", "", Deadline(LIMIT)) as workload:
        with pytest.raises(TargetError, match="no answer within"):
            workload.call("block", Deadline(1.0), seconds=2.0)
        assert "status" in workload.call("who", Deadline(LIMIT))


def test_a_stubborn_one_is_killed(agent: Agent) -> None:
    workload = agent.workload("null", "", Deadline(LIMIT))
    pid = workload.ready["pid"]
    with pytest.raises(TargetError):
        workload.call("stubborn", Deadline(1.0))
    report = workload.stop(Deadline(LIMIT))
    assert (report["how"], report["signal"]) == ("sigkill", 9)
    assert not is_alive(pid)
    assert workload.stop() == {}
    with pytest.raises(UsageError, match="no workload"):
        workload.call("who", Deadline(LIMIT))


def test_operations_and_arguments_are_checked(agent: Agent) -> None:
    with agent.workload("null", "", Deadline(LIMIT)) as workload:
        with pytest.raises(TargetError, match="no such operation"):
            workload.call("nonsense", Deadline(LIMIT))
        with pytest.raises(UsageError, match="seconds is 'x'"):
            workload.call("block", Deadline(LIMIT), seconds="x")
