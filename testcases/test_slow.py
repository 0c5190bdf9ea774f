"""Work that is only slow: recovery is for what does not end, and cannot know what would have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.dut import Dut

# Far below any driver's timeout, where this one's is not known; in seconds.
SPAN_S = 0.25


@pytest.mark.destructive
def test_a_slow_job_is_left_alone(dut: Dut, window: Window) -> None:
    """An engine works without pause for a good part of what its driver waits for a job, then the
    job is done: no error, no reset, nobody guilty.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3.
    """
    client = dut.client()
    if reason := dut.refusal(client):
        pytest.skip(reason)
    for engine in busy(dut):
        job = client.slow(engine, (dut.gpu.timeout_s(engine, dut.card) or 4 * SPAN_S) / 4)
        fence = client.wait(job, Deadline(dut.target.limits.tdr_s))
        assert fence.seconds is not None, f"{engine.name}: not in {dut.target.limits.tdr_s:g} s"
        assert fence.error == 0, f"{engine.name}: {fence}, not about {job.expected_s:g} s"
        # How fast it is was tried on small jobs, for which a GPU may not have hurried.
        assert fence.seconds > job.expected_s / 10, f"{engine.name} was not slow at all: {fence}"
    assert not dut.gpu_events(window)
    assert "guilty" not in client.reset_state()


@pytest.mark.destructive
def test_a_job_slower_than_the_timeout_is_a_hang(dut: Dut) -> None:
    """Work that would end, but long after the driver has noticed it and copied its state, ends
    like any hang: with its error, and the engine works again.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_job.c amdgpu_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_engine_heartbeat.c heartbeat().
    Runs on: sim-navi, sim-gen3.
    """
    bystander, limit = dut.client(), dut.target.limits.tdr_s
    if reason := dut.refusal(bystander):
        pytest.skip(reason)
    lacking = []
    for engine in busy(dut):
        least = 5 * (dut.gpu.timeout_s(engine, dut.card) or limit)
        if least > limit:
            lacking.append(f"{engine.name}: a job of {least:g} s is longer than {limit:g} s")
            continue
        guilty = dut.client()
        job = guilty.slow(engine, limit)
        if job.expected_s < least:
            guilty.wait(job, Deadline(limit))
            lacking.append(
                f"{engine.name}: of {least:g} s only {job.expected_s:.1f} s are to be had"
            )
            continue
        dut.hasten(engine)  # not before: it tries how fast the engine is
        fence = guilty.wait(job, Deadline(limit))
        assert fence.error in dut.gpu.hang_errors(), f"{engine.name}: the fence {fence}"
        after = bystander.canary(engine)
        assert after.ok, f"{engine.name}: a second client's job afterwards: {after}"
    if lacking:
        pytest.skip("; ".join(lacking))


def busy(dut: Dut) -> Iterator[Engine]:
    """An engine of each kind that can be kept busy, and its jobs on that very ring."""
    kinds = {engine.ip: engine for engine in dut.engines() if engine.slow}
    if not kinds:
        pytest.skip("nothing is known that these engines take long for, and end")
    for engine in kinds.values():
        dut.pin(engine)
        yield engine
