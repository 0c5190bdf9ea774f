"""Waiters and the signals that hit them, on this machine's own system calls."""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.agent.arguments import Arguments
from harness.agent.errors import AgentError
from harness.agent.workload import churn, waiters
from harness.agent.workload.fence_waits import poll, ready
from harness.agent.workload.generic import GenericWorkload
from harness.agent.workload.own_memory import Page
from harness.agent.workload.waiters import Behind, Wait, Waiters
from harness.live.waiters import LATE, READY, STUCK, Waiter

__all__: list[str] = []

LONG_NS = int(120e9)
_POLLIN = 1
_libc = c.CDLL(None, use_errno=True)


@pytest.fixture
def pipe() -> Any:
    """A pipe that nobody has written to: (reader, writer)."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def told(waits: list[Wait], timeout_ns: int) -> dict[tuple[str, bool], Waiter]:
    """By name, and whether it was disturbed."""
    replies = waiters.run(waits, timeout_ns, time.monotonic_ns())
    return {(one["name"], one["disturbed"]): Waiter.told(one) for one in replies}


def test_signals_interrupt_who_waits_and_sa_restart_lets_him_go_on(pipe: tuple[int, int]) -> None:
    """read(2) is restarted and poll(2) is not (signal(7)): the third time that one comes back
    with EINTR the other gets what it waits for."""
    reader, writer = pipe
    quiet, _ = empty = os.pipe()
    interrupted = 0

    def reads(_until: int) -> int:
        found = _libc.read(reader, c.create_string_buffer(1), 1)
        return 1 if found == 1 else -c.get_errno()

    def polls(until: int) -> int:
        nonlocal interrupted
        result = poll(quiet, _POLLIN)(until)
        interrupted += result == -errno.EINTR
        if interrupted < 3:
            return result
        os.write(writer, b"!")
        return 1

    waits = [Wait("read", reads, alone=True), Wait("poll", polls, alone=True, restarts=False)]
    found = told(waits, LONG_NS)
    assert found["read", True].result == READY
    assert found["read", True].handled >= 1
    assert found["poll", True].result == READY
    assert found["poll", True].handled >= 3
    for end in empty:
        os.close(end)


def test_who_is_not_to_come_back_with_eintr_and_does_is_told(pipe: tuple[int, int]) -> None:
    found = told([Wait("poll", poll(pipe[0], _POLLIN), alone=True)], LONG_NS)
    assert found["poll", True].result == "EINTR"
    assert found["poll", True].ended < 100


def test_a_time_that_is_over_and_an_error_are_told(pipe: tuple[int, int]) -> None:
    waits = [
        Wait("late", poll(pipe[0], _POLLIN), restarts=False),
        Wait("broken", lambda until: -512),
    ]
    found = told(waits, int(0.05e9))
    for disturbed in (False, True):
        late = found["late", disturbed]
        assert late.result == LATE
        assert late.ended - late.began >= 0.05
        assert found["broken", disturbed].result == "ERESTARTSYS"


def test_a_wait_asks_again_after_eagain() -> None:
    answers = iter([-errno.EAGAIN, -errno.EAGAIN, 1])
    (reply,) = waiters.run([Wait("busy", lambda until: next(answers), alone=True)], LONG_NS, 0)
    assert (reply["result"], reply["again"]) == (1, 2)


def test_one_that_never_ends_is_left_behind(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "_GRACE", 0.05)
    endless = Wait("endless", lambda until: poll(pipe[0], _POLLIN)(LONG_NS * 10**6), restarts=False)
    replies = waiters.run([endless._replace(timed=False)], 0, 0)
    assert [Waiter.told(reply).result for reply in replies] == [STUCK, STUCK]
    assert {Waiter.told(reply).ended for reply in replies} == {float("inf")}
    os.write(pipe[1], b"!!")  # so that its threads end


def test_an_ioctl_without_a_timeout_is_ready_or_late() -> None:
    assert [ready(0), ready(3), ready(-errno.ETIME), ready(-errno.EIO)] == [1, 1, 0, -errno.EIO]


def test_memory_of_ones_own_is_taken_away_and_shared() -> None:
    unmap, fork = Page().waits()
    assert fork.call(0) == 1
    assert unmap.call(0) == 1


def test_the_operation_hangs_and_waits_in_the_ways_that_there_are() -> None:
    job = SimpleNamespace(at=time.monotonic_ns())
    freed: list[str] = []

    def hang(arguments: Arguments) -> dict[str, Any]:
        return {"job": 7, "engine": arguments.text("engine")}

    def ways(submitted: Any, means: contextlib.ExitStack) -> list[Wait]:
        assert submitted is job
        means.callback(freed.append, "means")
        return [Wait("one", lambda until: 1), Wait("other", lambda until: 0)]

    operation = Waiters(hang, lambda arguments: {7: job}[arguments.integer("job")], ways)
    asked: dict[str, Any] = {"hang": {"engine": "gfx"}, "timeout_ns": 0, "names": ["other"]}
    reply = operation.perform(Arguments("waiters", asked))
    assert reply["hang"] == {"job": 7, "engine": "gfx"}
    assert [(one["name"], one["result"]) for one in reply["waiters"]] == [("other", 0)] * 2
    assert freed == ["means"]
    with pytest.raises(AgentError, match="no wait third"):
        operation.perform(Arguments("waiters", {**asked, "names": ["third"]}))
    with pytest.raises(AgentError, match="not negative"):
        operation.perform(Arguments("waiters", {**asked, "timeout_ns": -1}))


def test_churn_goes_round_until_it_is_told_to_stop(tmp_path: Path) -> None:
    if churn._file_system(str(tmp_path)) in churn._IN_MEMORY:
        pytest.skip("the temporary folder is in memory")
    size, reading = 3 << 20, churn.Churn()
    asked = {"bytes": size, "folder": str(tmp_path)}
    assert reading.perform(Arguments("churn", asked)) == {"read": size}
    reading.end()
    assert reading.perform(Arguments("churn", {**asked, "endless": True})) == {"read": 0}
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(reading.perform, Arguments("churn", {**asked, "endless": True}))
        assert not endless.done()
        reading.end()
        assert endless.result()["read"] % (1 << 20) == 0
    assert list(tmp_path.iterdir()) == []


def test_churn_refuses_a_folder_in_memory_and_knows_which_is() -> None:
    assert churn._file_system("/proc/self") == "proc"
    assert churn._file_system("/sys/class") == "sysfs"
    with pytest.raises(AgentError, match="is on tmpfs"):
        churn.Churn().perform(Arguments("churn", {"bytes": 1, "folder": "/dev/shm"}))


def test_without_its_means_the_generic_workload_says_what_to_pass() -> None:
    workload = GenericWorkload(-1, -1)
    for op, arguments, said in (
        ("timeline.fence", {"value": 1}, "no timeline"),
        ("buffer", {}, "no vgem"),
        ("syncobj", {}, "no node with syncobjs"),
        ("fence.info", {"fence": 1}, "no fence 1"),
        ("buffer.attach", {"buffer": 1}, "no buffer 1"),
        ("adopt", {}, "where to send"),
        ("dance", {}, "no operation dance"),
    ):
        with pytest.raises(AgentError, match=said):
            workload.perform(op, Arguments(op, arguments))


def test_behind_a_buffer_only_those_with_a_timeout_wait() -> None:
    def sleeps(until: int) -> int:
        time.sleep(max(0, until - time.monotonic_ns()) / 1e9)
        return 0

    def ways(handle: int, means: contextlib.ExitStack) -> list[Wait]:
        assert handle == 7
        return [
            Wait("timed", sleeps),
            Wait("endless", lambda until: pytest.fail("it has no timeout"), timed=False),
        ]

    behind = Behind(lambda arguments: arguments.integer("writes", None), ways)
    replies = behind.perform(Arguments("behind", {"writes": 7, "timeout_ns": 50_000_000}))
    told = [Waiter.told(one) for one in replies["waiters"]]
    assert [(one.name, one.result, one.disturbed) for one in told] == [
        ("timed", LATE, False),
        ("timed", LATE, True),
    ]
    with pytest.raises(AgentError, match="number of a buffer"):
        behind.perform(Arguments("behind", {"timeout_ns": 1}))
