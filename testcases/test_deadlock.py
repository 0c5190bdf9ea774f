"""The seed's deadlock: a commit waits for a hung job, and recovery needs what it holds.

A display client shows a frame that a job of another process is still writing; the job
hangs.  Recovery must get through, whatever the commit holds while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, NamedTuple

import pytest

from harness.client import Client, Fence, Job
from harness.deadline import Deadline
from harness.display import Commit, Display
from harness.dut import Dut
from harness.evidence.rundir import Window
from harness.gpu.base import Engine

How = Literal["modeset", "flip"]
# As test_display: within this a display is back after a reset, and a flip comes.
PATIENCE_S = 10.0
# A recovery that has not ended its job so long after the hang was noticed is looked at, and again
# later: what it stands still behind may change.
STILL_S = (1.0, 8.0, 15.0)


class Waiting(NamedTuple):
    """A commit on its way to the screen, and the job that it waits for."""

    commit: Future[Commit]
    guilty: Client
    job: Job
    engine: Engine
    display: Display


@contextmanager
def waiting(dut: Dut, how: How, *, soon: bool = False) -> Iterator[Waiting]:
    """A commit that waits for a job, which with `soon` is found hung as fast as can be; at the
    end the job is let go, so that nobody stays."""
    display, guilty, engine = dut.display(), dut.client(), dut.engines()[0]
    if soon:
        dut.hasten(engine)
    outputs = display.outputs()
    if not outputs:
        pytest.skip("no monitor is connected")
    if reason := dut.gpu.refusal(guilty.device()):
        pytest.skip(reason)
    display.show(outputs[0])
    flips = display.flips(0.5, PATIENCE_S)
    assert not flips.lost, f"flips do not work before the hang: of their events {flips}"
    frame = display.share(guilty)
    job = guilty.hang(engine, writes=frame.buffer)
    patience = 2 * dut.target.limits.tdr_s + PATIENCE_S
    with ThreadPoolExecutor(1) as pool:
        try:
            commit = pool.submit(display.commit, frame, how, patience)
            yield Waiting(commit, guilty, job, engine, display)
        finally:
            guilty.release(job)


def recovered(dut: Dut, window: Window, guilty: Client, job: Job) -> Fence:
    """Wait for the job's end; a recovery that stands still is looked at while it does."""
    deadline, noticed, looks = Deadline(dut.target.limits.tdr_s), None, list(STILL_S)
    fence = guilty.wait(job, Deadline(0.5))
    while not fence.signaled and not deadline.expired():
        if noticed is None and any(e.step == "hang" for e in dut.gpu_events(window)):
            noticed = time.monotonic()
        if noticed is not None and looks and time.monotonic() - noticed > looks[0]:
            dut.snapshot(window, f"standing-still-{looks.pop(0):.0f}s")
        fence = guilty.wait(job, Deadline(0.5))
    return fence


@pytest.mark.destructive
def test_recovery_passes_a_waiting_modeset(dut: Dut, window: Window) -> None:
    """A modeset waits within its call, holding the modeset locks, for a job that hangs."""
    recovery_passes(dut, window, "modeset")


@pytest.mark.destructive
def test_recovery_passes_a_waiting_flip(dut: Dut, window: Window) -> None:
    """A flip waits for a job that hangs: in a worker that holds no lock, but whose commit
    nothing that changes the display can overtake."""
    recovery_passes(dut, window, "flip")


@pytest.mark.destructive
def test_modeset_waits_for_a_slow_job(dut: Dut, window: Window) -> None:
    """The same modeset behind a job that is only slow: no longer than it lasts."""
    waits_no_longer(dut, window, "modeset")


@pytest.mark.destructive
def test_flip_waits_for_a_slow_job(dut: Dut, window: Window) -> None:
    """The same flip behind a job that is only slow: no longer than it lasts."""
    waits_no_longer(dut, window, "flip")


def recovery_passes(dut: Dut, window: Window, how: How) -> None:
    """The job ends with an error in time, then the commit is done, and flips and jobs flow.
    That recovery stood still meanwhile is the harness's to find: `deadlock`."""
    with waiting(dut, how, soon=True) as (commit, guilty, job, engine, display):
        fence = recovered(dut, window, guilty, job)
        assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
        assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
        shown = commit.result()
    assert shown.came, f"the commit that waited for the hung job was {shown}"
    assert display.active(), "the CRTC has no mode after the reset"
    after = display.flips(1.0, PATIENCE_S)
    assert not after.lost, f"the event of a flip after the reset was lost: {after}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
        assert canary.ok, f"a second client's job does not complete after recovery: {canary}"


def waits_no_longer(dut: Dut, window: Window, how: How) -> None:
    """The job is released before any timeout: the commit is done, and nothing is reset."""
    with waiting(dut, how) as (commit, guilty, job, _, display):
        held = guilty.wait(job, Deadline(0.5))
        assert not held.signaled, "the job ended before it was released"
        assert not commit.done(), f"the commit did not wait for the job: it was {commit.result()}"
        guilty.release(job)
        fence = guilty.wait(job, Deadline(dut.target.limits.tdr_s))
        shown = commit.result()
    assert fence.signaled
    assert fence.error == 0
    assert shown.came, f"the commit was {shown}"
    assert not dut.gpu_events(window)
    after = display.flips(0.5, PATIENCE_S)
    assert not after.lost, f"the event of a flip afterwards was lost: {after}"
