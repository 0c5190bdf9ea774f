"""Work that is only slow: recovery is for what does not end, and cannot know what would have."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.dut import Dut

# Far below any driver's timeout, where this one's is not known; in seconds.
SPAN_S = 0.25


@pytest.mark.destructive
def test_a_slow_job_is_left_alone(dut: Dut, pinned: Engine, window: Window) -> None:
    """An engine works without pause for a good part of what its driver waits for a job, then the
    job is done: no error, no reset, nobody guilty.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3 (engines that nothing keeps busy for long skip).
    """
    client = dut.client()
    if reason := dut.refusal(client) or idle_always(pinned):
        pytest.skip(reason)
    job = client.slow(pinned, (dut.gpu.timeout_s(pinned, dut.card) or 4 * SPAN_S) / 4)
    fence = client.wait(job, Deadline(dut.target.limits.tdr_s))
    assert (fence.signaled, fence.error) == (True, 0), f"{fence}, not about {job.expected_s:g} s"
    assert fence.seconds is not None
    # How fast it is was tried on small jobs, for which a GPU may not have hurried.
    assert fence.seconds > job.expected_s / 10, f"it was not slow at all: {fence}"
    assert not dut.gpu_events(window)
    assert "guilty" not in client.reset_state()


@pytest.mark.destructive
def test_a_job_slower_than_the_timeout_is_a_hang(dut: Dut, pinned: Engine) -> None:
    """Work that would end, but long after the driver has noticed it and copied its state, ends
    like any hang: with its error, and the engine works again.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_job.c amdgpu_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3 (engines that nothing keeps busy for long skip).
    """
    guilty, bystander = dut.client(), dut.client()
    if reason := dut.refusal(guilty) or idle_always(pinned):
        pytest.skip(reason)
    dut.hasten(pinned)
    limit = dut.target.limits.tdr_s
    job = guilty.slow(pinned, limit)
    if (least := 5 * (dut.gpu.timeout_s(pinned, dut.card) or limit)) > job.expected_s:
        pytest.skip(f"no job here lasts {least:g} s: {job.expected_s:.1f} s is all")
    fence = guilty.wait(job, Deadline(limit))
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    after = bystander.canary(pinned)
    assert after.ok, f"a second client's job does not complete after recovery: {after}"


def idle_always(engine: Engine) -> str:
    """Why the engine cannot be kept busy, or ""."""
    return "" if engine.slow else f"nothing is known that {engine.name} takes long for, and ends"
