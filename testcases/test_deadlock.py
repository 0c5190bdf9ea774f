"""The seed's deadlock: a commit waits for a hung job, and recovery needs what it holds.

A display client shows a frame that a job of another process is still writing; the job
hangs.  Recovery must get through, whatever the commit holds while it waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.display import Display
from harness.live.dut import Dut
from harness.live.pending import How, Pending

# As test_display: within this a display is back after a reset, and a flip comes.
PATIENCE_S = 10.0
# What a commit may take when its job has ended: half of the 10 s after which drivers give up on a
# fence (i915_fence_timeout()), and many frames for a loaded host.
SLACK_S = 5.0
# For how long signals hit a commit that waits, at least.
LOOK_S = 0.5
# On a busy host a job may be found hung before it is released, or no signal come: then once more.
TRIES = 3


def shown(dut: Dut) -> Display:
    """A client that shows a frame, and whose flips flow."""
    display = dut.display()
    outputs = display.outputs()
    if not outputs:
        pytest.skip("no monitor is connected")
    display.show(outputs[0])
    flips = display.flips(0.5, PATIENCE_S)
    assert not flips.lost, f"flips do not work before the hang: of their events {flips}"
    return display


@contextmanager
def pending(
    dut: Dut, display: Display, how: How, *, disturbed: bool = False
) -> Iterator[tuple[Pending, Engine]]:
    """A commit that waits for a job of another process; signals hit it if `disturbed`."""
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    patience = 2 * dut.target.limits.tdr_s + PATIENCE_S
    with Pending(display, guilty, engine, how, patience, disturbed=disturbed) as commit:
        yield commit, engine


@pytest.mark.destructive
def test_recovery_passes_a_waiting_modeset(dut: Dut, window: Window) -> None:
    """A modeset waits within its call, holding the modeset locks, for a job that hangs.

    Source: drivers/gpu/drm/drm_atomic_helper.c drm_atomic_helper_wait_for_fences(),
    drivers/gpu/drm/i915/display/intel_display_reset.c intel_display_reset_prepare().
    Runs on: sim-navi, sim-gen3.
    """
    recovery_passes(dut, window, "modeset")


@pytest.mark.destructive
def test_recovery_passes_a_waiting_flip(dut: Dut, window: Window) -> None:
    """A flip waits for a job that hangs: in a worker that holds no lock, but whose commit
    nothing that changes the display can overtake.

    Source: drivers/gpu/drm/drm_atomic_helper.c drm_atomic_helper_wait_for_fences(),
    drivers/gpu/drm/i915/display/intel_display.c intel_atomic_commit_fence_wait().
    Runs on: sim-navi, sim-gen3.
    """
    recovery_passes(dut, window, "flip")


@pytest.mark.destructive
def test_modeset_waits_for_a_slow_job(dut: Dut, window: Window) -> None:
    """The same modeset behind a job that is only slow: no longer than it lasts.

    Source: drivers/gpu/drm/drm_atomic_helper.c drm_atomic_helper_wait_for_fences().
    Runs on: sim-navi, sim-gen3.
    """
    waits_no_longer(dut, window, "modeset")


@pytest.mark.destructive
def test_signals_do_not_disturb_a_waiting_modeset(dut: Dut) -> None:
    """The same modeset while signals hit it: interruptible, and made again from its beginning
    (drm_atomic_helper_commit), or not (intel_atomic_commit_fence_wait), it ends as it should.

    Source: drivers/gpu/drm/drm_atomic_helper.c drm_atomic_helper_wait_for_fences(),
    drivers/gpu/drm/i915/display/intel_display.c intel_atomic_commit_fence_wait().
    Runs on: sim-navi, sim-gen3.
    """
    display = shown(dut)
    for _ in range(TRIES):
        with pending(dut, display, "modeset", disturbed=True) as (commit, _):
            commit.begun(Deadline(PATIENCE_S))
            commit.fence(Deadline(LOOK_S))
            held = commit.release()
            fence, done = commit.fence(Deadline(dut.target.limits.tdr_s)), commit.result()
        assert fence.signaled
        assert done.came, f"the commit was {done}"
        assert done.seconds < held + SLACK_S, f"the job was held {held:.1f} s, the commit {done}"
        if done.signals:
            break
    assert done.signals, f"no signal came while the commit waited, {TRIES} times"
    after = display.flips(0.5, PATIENCE_S)
    assert not after.lost, f"the event of a flip afterwards was lost: {after}"


@pytest.mark.destructive
def test_flip_waits_for_a_slow_job(dut: Dut, window: Window) -> None:
    """The same flip behind a job that is only slow: no longer than it lasts.

    Source: drivers/gpu/drm/drm_atomic_helper.c drm_atomic_helper_wait_for_fences().
    Runs on: sim-navi, sim-gen3.
    """
    waits_no_longer(dut, window, "flip")


def recovery_passes(dut: Dut, window: Window, how: How) -> None:
    """The job ends with an error in time, then the commit is done, and flips and jobs flow.
    That recovery stood still meanwhile is the harness's to find: `deadlock`."""
    display = shown(dut)
    dut.hasten(dut.engines()[0])
    with pending(dut, display, how) as (commit, engine):
        fence = commit.watch(
            Deadline(dut.target.limits.tdr_s),
            lambda: any(event.step == "hang" for event in dut.gpu_events(window)),
            lambda why: dut.snapshot(window, why),
        )
        assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
        assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
        done = commit.result()
    assert done.came, f"the commit that waited for the hung job was {done}"
    assert display.active(), "the CRTC has no mode after the reset"
    after = display.flips(1.0, PATIENCE_S)
    assert not after.lost, f"the event of a flip after the reset was lost: {after}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
        assert canary.ok, f"a second client's job does not complete after recovery: {canary}"


def waits_no_longer(dut: Dut, window: Window, how: How) -> None:
    """The job is released before any timeout: the commit is done, and nothing is reset."""
    display = shown(dut)
    for _ in range(TRIES):
        limit = Deadline(dut.target.limits.tdr_s)
        before = len(dut.recovered(window, limit))
        with pending(dut, display, how) as (commit, engine):
            waits = commit.begun(Deadline(PATIENCE_S)) and not commit.fence(Deadline(0.1)).signaled
            waits = waits and not commit.done()  # by now it is, if only for a vblank it waited
            held = commit.release()
            fence, done = commit.fence(limit), commit.result()
        if fence.error == 0 or held < (dut.gpu.timeout_s(engine, dut.card) or 0) / 2:
            break
    assert fence.signaled
    assert fence.error == 0, f"held {held:.1f} s: the fence {fence}"
    assert waits, "the commit does not wait for the job"
    assert done.came, f"the commit was {done}"
    assert done.seconds < held + SLACK_S, f"the job was held {held:.1f} s, the commit was {done}"
    assert len(dut.gpu_events(window)) == before, "the GPU was reset although nothing hung"
    after = display.flips(0.5, PATIENCE_S)
    assert not after.lost, f"the event of a flip afterwards was lost: {after}"
