"""Recovery while memory is short: it may not wait for memory, since that may wait for its fences.

Reclaim calls shrinkers and MMU notifiers, which may wait for a job to end: Documentation/
driver-api/dma-buf.rst, "DMA Fence Cross-Driver Contract".
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut
from harness.live.pressure import Pressure
from harness.live.waiters import READY


@pytest.mark.destructive
def test_recovers_while_memory_is_reclaimed(dut: Dut) -> None:
    """A job hangs that writes memory of its process's own, which that process shares by a fork
    meanwhile; kswapd and whoever allocates reclaim; all caches and the driver's own memory are
    dropped by hand.  The fence ends, the fork succeeds, the engine is usable.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_hmm.c amdgpu_hmm_invalidate_gfx(),
    drivers/gpu/drm/i915/gem/i915_gem_shrinker.c i915_gem_shrink().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, bystander, engine = dut.client(), dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    tdr_s = dut.target.limits.tdr_s
    with Pressure(dut.agent, dut.generic()) as pressure, ThreadPoolExecutor(1) as pool:
        hung = pool.submit(guilty.hang_and_wait, engine, Deadline(tdr_s), "fork", own=True)
        pressure.drop(dut.gpu.shrinker(dut.card))
        job, (fork,) = hung.result()
    fence = guilty.wait(job, Deadline(tdr_s))

    assert fence.seconds, f"the fence did not signal within {tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    assert fork.result == READY, f"{fork}; the fence {fence}"
    canary = bystander.canary(engine)
    assert canary.ok, f"a second client's job does not complete after recovery: {canary}"
