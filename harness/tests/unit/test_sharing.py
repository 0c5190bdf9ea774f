"""What workloads and probes are told: a buffer on its way, a function's name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.agent import probes
from harness.agent.arguments import Arguments
from harness.agent.errors import AgentError
from harness.agent.workload.parcel import Adopted, Inbox, send
from harness.evidence import snapshot
from harness.gpu import observe


def asked(op: str, **values: object) -> Arguments:
    return Arguments(op, dict(values))


# -- parcels -----------------------------------------------------------------------


def test_a_buffer_waits_in_the_inbox_until_it_is_fetched() -> None:
    inbox = Inbox()
    fd = os.memfd_create("picture")
    os.write(fd, b"pixels")
    send(fd, inbox.address)
    os.close(fd)
    got = inbox.receive(5.0)
    assert os.pread(got, 6, 0) == b"pixels"
    assert not os.get_inheritable(got)
    os.close(got)


def test_an_empty_inbox_and_a_wrong_address_are_said_so() -> None:
    with pytest.raises(AgentError, match="no buffer came"):
        Inbox().receive(0.01)
    with pytest.raises(AgentError) as refused:
        send(0, "/tmp/socket")
    assert refused.value.kind == "usage"
    with pytest.raises(AgentError, match="cannot be reached"):
        send(0, Inbox().address + "0")


def test_what_is_adopted_can_be_written_by_its_number() -> None:
    taken: list[int] = []

    def take(fd: int) -> int:
        taken.append(fd)
        return 40 + len(taken)

    adopted = Adopted(take, lambda: os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(AgentError, match="where to send"):
        adopted.adopt(asked("adopt"))
    address = adopted.inbox(asked("inbox"))["address"]
    assert adopted.inbox(asked("inbox")) == {"address": address}
    for number in (1, 2):
        send(0, address)
        assert adopted.adopt(asked("adopt")) == {"buffer": number}
    assert adopted.chosen(asked("hang", writes=2)) == 42
    assert adopted.chosen(asked("hang")) is None
    assert adopted.lend(asked("lend", to=address)) == {"buffer": 3}
    assert adopted.adopt(asked("adopt")) == {"buffer": 4}, "what was lent did not come"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(taken[0])  # it is closed: a handle is enough
    for wrong in (0, 5, -1):
        with pytest.raises(AgentError, match="no buffer"):
            adopted.chosen(asked("hang", writes=wrong))


# -- probes ------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["i915", "amdgpu", "xe"])
def test_the_host_names_probes_as_the_agent_reads_them(driver: str) -> None:
    read = [probes.parse(text) for text in observe.probes(driver)]
    assert {probe.kind for probe in read} <= {"p", "r"}
    assert bool(read) == (driver == "i915")
    assert len({probe.name for probe in read}) == len(read)


@pytest.mark.parametrize(
    "text",
    ["", "p:wait_begin::f", "x:a::f", "p:a:f", "p:a::f +0(%di)", "p:a::f\nr:b g", "p:A::f"],
)
def test_what_is_no_probe_is_refused(text: str) -> None:
    with pytest.raises(AgentError) as refused:
        probes.parse(text)
    assert refused.value.kind == "usage"


def test_a_probe_is_written_as_the_kernel_reads_it() -> None:
    by_name = {probe.name: probe for probe in probes.PROBES}
    newer, older = by_name["lock_begin"].definitions("lab_7")
    assert newer == "p:lab_7/lock_begin drm_modeset_lock lock=$arg1:x64"
    assert older == "p:lab_7/lock_begin drm_modeset_lock lock=%di:x64"
    assert by_name["lock_end"].definitions("lab_7")[0].startswith("r512:lab_7/lock_end ")


# -- snapshots ---------------------------------------------------------------------


def test_snapshots_are_read_in_order_and_broken_ones_left_out(tmp_path: Path) -> None:
    task = {"pid": 9, "tid": 9, "state": "D", "comm": "kworker/9", "stack": "[<0>] f+0x1"}
    (tmp_path / "snapshot.json").write_text(json.dumps({"mono": 8, "tasks": [task], "files": []}))
    (tmp_path / "snapshot-early.json").write_text(json.dumps({"mono": 5, "locks": "none"}))
    (tmp_path / "snapshot-torn.json").write_text('{"mono": 6, ')
    seen = snapshot.read(tmp_path)
    assert [one.mono for one in seen] == [5, 8]
    assert (seen[0].locks, seen[1].tasks[0].comm) == ("none", "kworker/9")
    assert snapshot.read(tmp_path / "nowhere") == []
