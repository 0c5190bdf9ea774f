"""Every engine hung by an unprivileged client: is the promise kept?

The kernel must notice by itself, end the job's fence with an error, leave the
others usable, and take no lock on the way that a fence waiter may hold.
"""

from __future__ import annotations

from collections import Counter

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.dut import Dut
from harness.live.waiters import named

# On a busy host a job may be found hung before it is released: then once more.
TRIES = 3


@pytest.mark.destructive
def test_recovers(dut: Dut, pinned: Engine, window: Window) -> None:
    """A hang on one engine: TDR in time, the fence ends with the right error, and a job of a
    second process succeeds on the same engine afterwards.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_job.c amdgpu_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, bystander = dut.client(), dut.client()
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    before = bystander.canary(pinned)
    assert before.ok, f"the engine does not work before the hang: {before}"

    fence = guilty.wait(guilty.hang(pinned), Deadline(dut.target.limits.tdr_s))

    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    assert fence.wait_error in (0, fence.error), f"the wait returned {named(fence.wait_error)}"
    assert fence.seconds is not None
    asleep = fence.woken - fence.seconds
    assert asleep < dut.target.limits.tdr_s / 2, f"the waiter woke {asleep:.1f} s after its fence"
    patience = dut.gpu.timeout_s(pinned, dut.card)
    if patience is not None:
        assert fence.seconds >= 0.9 * patience, f"before the driver's own timeout: {fence}"

    steps = Counter(event.step for event in dut.gpu_events(window))
    assert steps["hang"] + steps["soft-recovered"], f"the kernel noticed no hang: {dict(steps)}"
    recoveries, hangs = steps["reset-done"], steps["hang"]
    assert recoveries <= hangs, f"{recoveries} recoveries after {hangs} timeouts"

    after = bystander.canary(pinned)
    assert after.ok, f"a second client's job does not complete after recovery: {after}"


@pytest.mark.destructive
def test_the_guilty_is_told(dut: Dut, pinned: Engine, window: Window) -> None:
    """The driver tells the context that hung of its guilt, and no other context of any.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_ctx.c amdgpu_ctx_query2(),
    drivers/gpu/drm/i915/gt/intel_reset.c mark_guilty().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, bystander = dut.client(), dut.client()
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    assert bystander.canary(pinned).ok
    fence = guilty.wait(guilty.hang(pinned), Deadline(dut.target.limits.tdr_s))
    assert fence.signaled
    events = dut.recovered(window, Deadline(dut.target.limits.tdr_s))
    if not any(event.step == "reset-begin" and event.scope == "gpu" for event in events):
        pytest.skip("recovered without a reset of the whole GPU: nobody need be called guilty")
    assert "guilty" in guilty.reset_state(), "the context that hung is not called guilty"
    assert "guilty" not in bystander.reset_state(), "a context that did nothing is called guilty"
    assert "guilty" not in guilty.reset_state(guilty.context()), "a new context is called guilty"


@pytest.mark.destructive
def test_recovers_from_other_kinds(dut: Dut, pinned: Engine) -> None:
    """Whatever else hangs the engine (a command that is none, say) ends with the right error too,
    and leaves it usable.

    Source: drivers/gpu/drm/amd/amdgpu/nvd.h, drivers/gpu/drm/i915/gt/intel_gpu_commands.h,
    drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_handle_error().
    Runs on: sim-navi, sim-gen3.
    """
    bystander = dut.client()
    if reason := dut.refusal(bystander):
        pytest.skip(reason)
    kinds = dut.recipes(pinned)[1:]
    if not kinds:
        pytest.skip(f"there is but one way to hang {pinned.name}")
    for kind in kinds:
        guilty = dut.client()
        fence = guilty.wait(guilty.hang(pinned, kind), Deadline(dut.target.limits.tdr_s))
        assert fence.signaled, f"{kind}: no signal within {dut.target.limits.tdr_s:g} s"
        assert fence.error in dut.gpu.hang_errors(), f"{kind}: the fence {fence}"
        after = bystander.canary(pinned)
        assert after.ok, f"{kind}: a second client's job does not complete after it: {after}"


@pytest.mark.destructive
def test_neighbour_of_a_hang(dut: Dut, pinned: Engine) -> None:
    """Two processes hang one engine, one job behind the other: both fences end with an error,
    and a third process can use the engine.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_device.c amdgpu_device_pre_asic_reset(),
    drivers/gpu/drm/i915/gt/intel_reset.c __i915_request_reset().
    Runs on: sim-navi, sim-gen3.
    """
    first, second, bystander = dut.client(), dut.client(), dut.client()
    if reason := dut.refusal(first):
        pytest.skip(reason)
    hangs = [(client, client.hang(pinned)) for client in (first, second)]
    # The second may have to wait until the first has timed out, and then for its own timeout.
    deadline = Deadline(2 * dut.target.limits.tdr_s)
    for client, job in hangs:
        fence = client.wait(job, deadline)
        assert fence.signaled, "the fence did not signal"
        assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    after = bystander.canary(pinned)
    assert after.ok, f"a third client's job does not complete after recovery: {after}"


@pytest.mark.destructive
def test_released_hang_is_no_hang(dut: Dut, pinned: Engine, window: Window) -> None:
    """A job that only waits, released from the CPU before the timeout, ends without an error
    and without a reset: what the harness calls a hang is not broken by itself.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3.
    """
    limit, patience_s = dut.target.limits.tdr_s, dut.gpu.timeout_s(pinned, dut.card) or 0
    for _ in range(TRIES):
        before = len(dut.recovered(window, Deadline(limit)))
        with dut.client() as client:
            if reason := dut.refusal(client):
                pytest.skip(reason)
            job = client.hang(pinned)
            held = client.wait(job, Deadline(0.2))
            client.release(job)
            fence = client.wait(job, Deadline(limit))
        if fence.error == 0 or (fence.seconds or 0) < patience_s / 2:
            break

    assert fence.signaled
    assert fence.error == 0, f"released at once: the fence {fence}"
    assert not held.signaled, "the job ended before it was released"
    assert len(dut.gpu_events(window)) == before, "the GPU was reset although nothing hung"


@pytest.mark.destructive
def test_manual_reset(dut: Dut, window: Window) -> None:
    """The driver's own reset knob works on an idle GPU and leaves it usable.  amdgpu's does not
    pass the scheduler's handler: lockdep does not watch it, "not annotated here".

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_fence.c gpu_recover_get(),
    drivers/gpu/drm/i915/gt/intel_gt_debugfs.c intel_gt_debugfs_reset_store().
    Runs on: sim-navi, sim-gen3.
    """
    if dut.gpu.manual_reset(dut.card) is None:
        pytest.skip("this driver has no manual reset")
    client = dut.client()
    if reason := dut.refusal(client):
        pytest.skip(reason)
    dut.reset_gpu(Deadline(dut.target.limits.tdr_s))

    patience = Deadline(dut.target.limits.tdr_s)
    steps = [event.step for event in dut.recovered(window, patience)]
    assert "reset-done" in steps, f"no completed reset in the log: {steps}"
    with dut.client() as fresh:
        for engine in dut.engines():
            canary = fresh.canary(engine)
            assert canary.ok, f"{engine.name} after the reset: {canary}"
