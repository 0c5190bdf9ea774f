"""Who else is hit: other engines, other contexts, everything at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.dut import Dut

# Small jobs that an innocent has behind the hang.
JOBS = 8


@pytest.mark.destructive
def test_all_engines_hung_at_once(dut: Dut) -> None:
    """Every engine hangs at the same time, each by a process of its own: all their fences end
    with the right error, however many recoveries that takes, and every engine works again.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_device.c amdgpu_device_gpu_recover(),
    drivers/gpu/drm/scheduler/sched_main.c drm_sched_stop(),
    drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_handle_error().
    Runs on: sim-navi, sim-gen3 (one engine only: skips).
    """
    engines = dut.engines()
    if len(engines) < 2:
        pytest.skip("this GPU has one engine: test_recovers hangs it")
    clients = [dut.client() for _ in engines]
    if reason := dut.refusal(clients[0]):
        pytest.skip(reason)
    jobs = []
    for client, engine in zip(clients, engines, strict=True):
        dut.pin(engine)  # a mask is looked at when a job is submitted
        jobs.append(client.hang(engine))
    # In the worst case each engine times out alone.
    deadline = Deadline(len(engines) * dut.target.limits.tdr_s)
    fences = [client.wait(job, deadline) for client, job in zip(clients, jobs, strict=True)]

    told = {job.engine.name: str(fence) for job, fence in zip(jobs, fences, strict=True)}
    assert all(fence.signaled for fence in fences), told
    assert all(fence.error in dut.gpu.hang_errors() for fence in fences), told
    with dut.client() as fresh:
        for engine in engines:
            dut.pin(engine)
            canary = fresh.canary(engine)
            assert canary.ok, f"{engine.name} afterwards: {canary}"


@pytest.mark.destructive
def test_innocent_jobs_complete(dut: Dut, pinned: Engine) -> None:
    """Jobs behind a hang, and on another engine beside it, end too: without an error, or with
    that of a job that a reset took along; their contexts are not called guilty, and the hung
    one's count of hangs is one.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_start(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_ctx.c amdgpu_ctx_query2(),
    drivers/gpu/drm/i915/gt/intel_reset.c __i915_request_reset(), mark_innocent().
    Runs on: sim-navi, sim-gen3.
    """
    guilty = dut.client()
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    others = [engine for engine in dut.engines() if engine.ip != pinned.ip][:1]
    innocents = [(dut.client(), engine) for engine in (pinned, *others)]
    assert all(client.canary(engine).ok for client, engine in innocents)
    hung = guilty.hang(pinned)
    patience = 2 * dut.target.limits.tdr_s
    with ThreadPoolExecutor(len(innocents)) as pool:
        storms = list(
            pool.map(lambda one: one[0].storm(one[1], JOBS, Deadline(patience)), innocents)
        )
    fence = guilty.wait(hung, Deadline(dut.target.limits.tdr_s))

    assert fence.signaled, f"the hung job's fence: {fence}"
    for storm in storms:
        assert (storm.submitted, storm.completed, storm.pending) == (JOBS, JOBS, 0), storm
        assert set(storm.errors) <= dut.gpu.innocent_errors(), f"innocent jobs: {storm.errors}"
    assert guilty.hangs() in (None, 1), f"of one hang {guilty.hangs()} were counted"
    for client, engine in innocents:
        assert client.hangs() in (None, 0), "a hang was counted of who hung nothing"
        assert "guilty" not in client.reset_state(), "a context that did nothing is called guilty"
        canary = client.canary(engine, client.context())
        assert canary.ok, f"its next job on {engine.name}: {canary}"
