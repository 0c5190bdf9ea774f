"""The two remedies for a reset that takes the modeset locks, without the annotation.

With it the first is a row of the matrix: lockdep reports those locks, rightly.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.evidence.rundir import Window
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S, engine_of, sh
from harness.tests.vm.screen import flipper, told, wedged

CMDLINE = "gpu_sched.tdr_annotation=0 amdgpu.lockup_timeout=2000,60000,2000,2000"
REMEDY = "/sys/module/amdgpu/parameters/sim_remedy"
IOCTL, ERESTARTNOINTR = 16, 513  # x86-64's number; include/linux/errno.h
WAITS = {"wait_cs": -errno.ETIME, "wait_fences": -errno.ETIME, "commit": 0}
TRACE = "/sys/kernel/tracing/instances/lab-remedies"


@contextmanager
def traced(sim: Dut) -> Iterator[list[str]]:
    """Lines of what ioctls were entered and left, and which signals came, in order."""
    lines: list[str] = []
    events = f"{TRACE}/events"
    sh(
        sim,
        f"mkdir {TRACE}; echo 4096 > {TRACE}/buffer_size_kb; echo mono > {TRACE}/trace_clock;"
        f" for end in enter exit; do echo 'id == {IOCTL}' > {events}/raw_syscalls/sys_$end/filter;"
        f" echo 1 > {events}/raw_syscalls/sys_$end/enable; done;"
        f" echo 1 > {events}/signal/signal_deliver/enable",
    )
    try:
        yield lines
        lost = sh(sim, f"cat {TRACE}/per_cpu/cpu*/stats | sed -n 's/^overrun: //p'").split()
        assert set(lost) == {"0"}, "the recording has holes"
        lines += sh(sim, f"grep -v '^#' {TRACE}/trace").splitlines()
    finally:
        sh(sim, f"echo 0 > {TRACE}/tracing_on; rmdir {TRACE}")


def calls_of(lines: list[str], thread: int) -> list[str]:
    """A thread's ioctls: "enter ARGUMENTS", "exit RESULT", "signal NUMBER", in order."""
    calls = []
    for line in lines:
        mine = re.match(rf".*-{thread}\s+\[\d+\]", line)
        if mine is None:
            continue
        if enter := re.search(r"sys_enter: NR \d+ \((.*)\)", line):
            calls.append(f"enter {enter[1]}")
        elif leave := re.search(r"sys_exit: NR \d+ = (-?\d+)", line):
            calls.append(f"exit {leave[1]}")
        elif signal := re.search(r"signal_deliver: sig=(\d+)", line):
            calls.append(f"signal {signal[1]}")
    assert calls, "the thread was not recorded"
    return calls


def restarted(calls: list[str]) -> bool:
    """Whether a call was left for a restart and entered again, unchanged, with no signal."""
    leave = f"exit -{ERESTARTNOINTR}"
    for at, word in enumerate(calls[:-1]):
        if word == leave:
            assert calls[at + 1] == calls[at - 1], calls[at - 1 : at + 2]
    assert not any(word.startswith("signal") for word in calls), calls
    return leave in calls


# -- restart -----------------------------------------------------------------------


def test_waiters_are_restarted_and_do_not_notice(sim: Dut, sim_window: Window) -> None:
    sim.call("knob", path=REMEDY, value="restart")
    before = len(wedged(sim))
    with traced(sim) as lines:
        result = flipper(sim, "waits")
    assert result["early"] is False
    for name, outcome in WAITS.items():
        assert result[name]["result"] == outcome, result
        assert result[name]["signaled"], f"{name} was answered early: {result}"
        assert restarted(calls_of(lines, result[name]["thread"])), f"{name}: {result}"
    assert result["restored"], "the display did not come back"
    assert [event["WEDGED"] for event in told(sim, before, 1)] == ["none"]
    steps = [event.step for event in sim.gpu_events(sim_window)]
    assert steps == ["hang", "reset-begin", "reset-done"]


def test_without_the_remedy_nobody_is_restarted(sim: Dut) -> None:
    assert sh(sim, f"cat {REMEDY}") == "none\n"
    with traced(sim) as lines:
        result = flipper(sim, "waits")
    for name, outcome in WAITS.items():
        assert result[name]["result"] == outcome, result
        assert not restarted(calls_of(lines, result[name]["thread"]))
    assert result["restored"]


@pytest.mark.parametrize("scope", ["soft", "ring", "full"])
def test_a_reset_that_leaves_the_display_restarts_nobody(sim: Dut, scope: str) -> None:
    sim.call("knob", path=REMEDY, value="restart")
    sim.call("knob", path=REMEDY.replace("sim_remedy", "sim_reset_scope"), value=scope)
    error = -errno.ENODATA if scope == "soft" else -errno.ETIME
    with traced(sim) as lines:
        result = flipper(sim, "waits")
    assert [result[name]["result"] for name in WAITS] == [error, error, 0]
    for name in WAITS:
        assert not restarted(calls_of(lines, result[name]["thread"]))


def test_uninterruptible_waits_are_left_alone(sim: Dut) -> None:
    sim.call("knob", path=REMEDY, value="restart")
    result = flipper(sim, "storm", "8", "gfx", "sdma", patience_s=2 * PATIENCE_S)
    assert result["flips"]["asked"] == result["flips"]["delivered"] == 6, result
    assert result["still"] == {"same": 2}, result


def test_waits_of_simgpu_still_time_out_and_still_end(sim: Dut) -> None:
    sim.call("knob", path=REMEDY, value="restart")
    client = sim.client()
    job = client.hang(engine_of(sim, "compute"))
    held = client.wait(job, Deadline(0.3))
    assert (held.signaled, held.wait_error) == (False, 0)
    client.release(job)
    ended = client.wait(job, Deadline(PATIENCE_S))
    assert (ended.signaled, ended.error, ended.wait_error) == (True, 0, 0)


# -- force -------------------------------------------------------------------------


def test_force_ends_every_fence_and_wedges_until_armed_again(
    sim: Dut, sim_window: Window, expected: set[str]
) -> None:
    expected.add("recovery")
    with pytest.raises(TargetError):
        sim.call("knob", path=REMEDY, value="nonsense")
    sim.call("knob", path=REMEDY, value="force")
    before = len(wedged(sim))
    gfx, compute = engine_of(sim, "gfx"), engine_of(sim, "compute")
    sim.pin(compute)
    clients = [sim.client() for _ in range(4)]
    # Two are on the ring, the others still in their entities; none times out by itself.
    jobs = [client.hang(compute) for client in clients]
    guilty = sim.client()
    assert guilty.wait(guilty.hang(gfx), Deadline(PATIENCE_S)).error == -errno.ETIME
    ends = [c.wait(j, Deadline(PATIENCE_S)).error for c, j in zip(clients, jobs, strict=True)]
    assert ends == [-errno.ECANCELED] * 4

    for client in (clients[3], sim.client()):
        refused = client.canary(gfx)
        assert (refused.ok, refused.stage, refused.errname) == (False, "submit", "ECANCELED")
    assert [event["WEDGED"] for event in told(sim, before, 1)] == ["rebind"]
    steps = [event.step for event in sim.gpu_events(sim_window)]
    assert steps.count("reset-failed") == 2
    assert steps[-1] == "wedged"

    sim.call("knob", path=REMEDY, value="force")
    with sim.client() as fresh:
        for engine in sim.engines():
            assert fresh.canary(engine).ok


def test_force_leaves_no_waiter_behind_on_the_display(sim: Dut, expected: set[str]) -> None:
    expected.add("recovery")
    sim.call("knob", path=REMEDY, value="force")
    result = flipper(sim, "waits")
    for name, outcome in WAITS.items():
        assert result[name]["result"] == outcome, result
        assert result[name]["signaled"]
    assert result["restored"], "the display did not come back"
