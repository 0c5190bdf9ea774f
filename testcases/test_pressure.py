"""Recovery while memory is short: it may not wait for memory, since that may wait for its fences.

Reclaim calls shrinkers and MMU notifiers, which may wait for a job to end: Documentation/
driver-api/dma-buf.rst, "DMA Fence Cross-Driver Contract".
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.dut import Dut
from harness.gpu.base import Knob
from harness.waiters import READY

# Of what is free: what the kernel shall keep so, and what is read.  kswapd runs below 5/4 of what
# it shall keep, up to 3/2 of that; less than 1 of it has everybody reclaim who allocates
# (Documentation/admin-guide/sysctl/vm.rst, min_free_kbytes and watermark_scale_factor).
KEPT, READ = 0.7, 0.45
# What it takes to read that, in seconds.
FILL_S = 300.0
MIN_FREE, DROP = "/proc/sys/vm/min_free_kbytes", Knob("/proc/sys/vm/drop_caches", "3")


def free_kib(dut: Dut) -> int:
    text = b64decode(dut.call("read", path="/proc/meminfo")["data"]).decode()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemFree:"))


def drop(dut: Dut) -> None:
    """Have everybody's caches given back, and the driver's own memory."""
    for knob in filter(None, (dut.gpu.shrinker(dut.card), DROP)):
        data = b64encode(f"{knob.value}\n".encode()).decode()
        dut.call("write", path=knob.path, data=data, seconds=dut.target.limits.command_s)


@pytest.mark.destructive
def test_recovers_while_memory_is_reclaimed(dut: Dut) -> None:
    """A job hangs that writes memory of its process's own, which that process shares by a fork,
    while somebody reads more than may be cached, and caches are dropped by hand.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_hmm.c amdgpu_hmm_invalidate_gfx(),
    drivers/gpu/drm/i915/gem/i915_gem_shrinker.c i915_gem_shrink().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, reader, engine = dut.client(), dut.generic(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    free = free_kib(dut)
    dut.turn(Knob(MIN_FREE, str(int(KEPT * free))))
    size, patience = int(READ * free) << 10, Deadline(FILL_S + dut.target.limits.tdr_s)
    reader.churn(size, patience, endless=False)
    reclaimed = free_kib(dut) > (1 - READ) * free
    hang_s = Deadline(dut.target.limits.tdr_s)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(reader.churn, size, patience, endless=True)
        hung = pool.submit(guilty.hang_and_wait, engine, hang_s, "fork", own=True)
        try:
            drop(dut)
            job, (fork,) = hung.result()
        finally:
            reader.settle()
        reading.result()
    fence = guilty.wait(job, hang_s)

    assert fence.seconds, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    assert fork.result == READY, f"{fork}; the fence {fence}"
    assert reclaimed, "nothing was reclaimed: what was read is all in the cache"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job does not complete after recovery: {canary}"
