"""Waiters beside a recovery: each is told the truth, not before its time, and nothing else.

A wait that a signal interrupts ends with -ERESTARTSYS, which never leaves the kernel: with
SA_RESTART it goes on (arch/x86/kernel/signal.c, handle_signal).
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.client import Client, Fence
from harness.live.dut import Dut
from harness.live.waiters import READY, Waiter, named

# Who sleeps so long before a fence signals is hit by a signal, in seconds.
LONG_S = 0.5


def guilty_client(dut: Dut) -> tuple[Client, Engine]:
    """Who may hang the GPU; with a picture shown, so that a reset of the display has a victim."""
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    display = dut.display()
    for output in display.outputs()[:1]:
        display.show(output)
    return guilty, engine


@pytest.mark.destructive
def test_every_wait_is_told_the_truth(dut: Dut) -> None:
    """Threads wait for a hung job in every way the kernel has, and again while signals hit them
    all through recovery: all come back after the fence, soon, and are told the same.

    Source: drivers/dma-buf/dma-fence.c dma_fence_default_wait(),
    drivers/gpu/drm/drm_syncobj.c drm_syncobj_array_wait_timeout().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, engine = guilty_client(dut)
    job, waits = guilty.hang_and_wait(engine, Deadline(dut.target.limits.tdr_s))
    fence = guilty.wait(job, Deadline(dut.target.limits.tdr_s))

    assert fence.seconds, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    told = truly_told(waits, fence, dut.target.limits.tdr_s / 2)
    assert all(len(results) == 1 for results in told.values()), f"signals changed it: {told}"
    slept = [wait for wait in waits if wait.disturbed and wait.began < fence.seconds - LONG_S]
    deaf = [str(wait) for wait in slept if not wait.handled]
    assert not deaf, f"no signal interrupted these: {deaf}"


def truly_told(waits: list[Waiter], fence: Fence, soon: float) -> dict[str, set[str]]:
    """What each kind of wait was told: READY, or the fence's own error where the driver tells
    that.  A driver may see a job's end before it signals the fence, but not halfway."""
    assert fence.seconds is not None
    told = defaultdict(set)
    for wait in waits:
        assert wait.result in (READY, named(fence.error)), f"{wait}; the fence {fence}"
        late = max(wait.began, fence.seconds) + soon
        assert fence.seconds / 2 < wait.ended < late, f"{wait}; the fence {fence}"
        told[wait.name].add(wait.result)
    return told


@pytest.mark.destructive
def test_who_cannot_be_interrupted_completes(dut: Dut) -> None:
    """A process takes away the page that its hung job writes.  Before it may, the driver's MMU
    notifier waits for the job, uninterruptibly (amdgpu_hmm_invalidate_gfx), or need not, for it
    pinned the page (i915_gem_userptr_invalidate).  Signals do not matter; recovery ends the job.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_hmm.c amdgpu_hmm_invalidate_gfx(),
    drivers/gpu/drm/i915/gem/i915_gem_userptr.c i915_gem_userptr_invalidate().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, engine = guilty_client(dut)
    tdr_s = dut.target.limits.tdr_s
    job, (munmap,) = guilty.hang_and_wait(engine, Deadline(tdr_s), "munmap", own=True)
    fence = guilty.wait(job, Deadline(tdr_s))

    assert fence.seconds, f"the fence did not signal within {tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    assert munmap.result == READY, f"{munmap}; the fence {fence}"
    if dut.gpu.unmap_waits():
        assert munmap.ended >= fence.seconds, f"it did not wait for the job: {munmap}; {fence}"
        waited = munmap.began < fence.seconds - LONG_S
        assert munmap.signals or not waited, f"no signal came while it waited: {munmap}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job does not complete after recovery: {canary}"
