"""Tests that do to their target, agent or link what a bad night would; run by faults.py one floor
up, each followed by one that must not feel it."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Callable

import pytest

from harness.deadline import Deadline
from harness.dut import Dut
from harness.errors import HarnessError
from harness.tests.vm.faultplugin import switch

# Lines that each victim has the kernel log before its fault: all of them must be in the evidence.
LINES = 50
# Called when the fault is about to happen: from then on its time counts.
Now = Callable[[], None]
# Longest that a body waits for what it did to show.
PATIENCE_S = 300.0


def _shell(dut: Dut, script: str, limit: float = 60.0) -> None:
    dut.agent.call("run", Deadline(limit + 5), argv=["sh", "-c", script], timeout=limit)


def _write(dut: Dut, path: str, data: str) -> None:
    """Of a write that does not come back there is nothing to tell."""
    with contextlib.suppress(HarnessError):
        coded = b64encode(data.encode()).decode()
        dut.agent.call("write", Deadline(PATIENCE_S), path=path, data=coded, seconds=PATIENCE_S)


def _gone(dut: Dut) -> None:
    """Until the link is given up, however the harness finds out."""
    deadline = Deadline(PATIENCE_S)
    while dut.agent.alive and deadline.pause(0.02):
        pass
    dut.health()  # raises what ended the link


def panic(dut: Dut, now: Now) -> None:
    """The kernel dies."""
    now()
    _write(dut, "/proc/sysrq-trigger", "c")
    _gone(dut)


def oops(dut: Dut, now: Now) -> None:
    """An oops in recovery, which the lab has made deadly."""
    _write(dut, "/proc/sys/kernel/panic_on_oops", "1\n")
    switch(dut, "oops")
    now()
    with contextlib.suppress(HarnessError):
        dut.reset_gpu(Deadline(PATIENCE_S))
    _gone(dut)


def hard_lockup(dut: Dut, now: Now) -> None:
    """A processor stands still with interrupts off."""
    switch(dut, "hard_lockup")
    now()
    with contextlib.suppress(HarnessError):
        dut.reset_gpu(Deadline(PATIENCE_S))
    _gone(dut)


def agent_stopped(dut: Dut, now: Now) -> None:
    """The agent does nothing any more, and the kernel lives."""
    now()
    _shell(dut, f"kill -STOP {dut.facts['pid']}")
    _gone(dut)


def sshd_killed(dut: Dut, now: Now) -> None:
    """The server and all its sessions; init starts it again."""
    now()
    with contextlib.suppress(HarnessError):
        _shell(dut, "pkill -KILL sshd")
    _gone(dut)


FAULTS: dict[str, Callable[[Dut, Now], None]] = {
    function.__name__: function
    for function in (panic, oops, hard_lockup, agent_stopped, sshd_killed)
}


@pytest.mark.destructive
@pytest.mark.parametrize("state", ["on", "after"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_day(dut: Dut, fault: str, state: str) -> None:
    """With the fault, or right after it."""
    if state == "after":
        assert dut.health()["debug_locks"] == 1
        return
    _shell(dut, f'for n in $(seq {LINES}); do echo "<6>fault {fault} $n." > /dev/kmsg; done')
    FAULTS[fault](dut, lambda: dut.run.journal.add("fault", fault=fault))
