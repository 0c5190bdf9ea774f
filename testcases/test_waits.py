"""Waiters beside a recovery: each is told the truth, not before its time, and nothing else.

A wait that a signal interrupts ends with -ERESTARTSYS, which never leaves the kernel: with
SA_RESTART it goes on (arch/x86/kernel/signal.c, handle_signal).
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.client import Fence
from harness.live.dut import Dut
from harness.live.waiters import LATE, READY, Waiter, named

# A fence that signals so much later than a wait's time was over did not end that wait; and how
# late, in seconds, a wait is given up that begins when its job does.
LONG_S, SPAN_S = 0.5, 1.0
# Timeouts count in jiffies, and those stand still while a host lets no timer interrupt through.
EARLY_S = 0.1
# On a busy host a signal may miss a wait, or the kernel an interrupt: then once more.
TRIES = 3


def victim(dut: Dut) -> Engine:
    """The engine to hang, soon found hung; with a picture shown, for a reset to disturb."""
    engine, display = dut.engines()[0], dut.display()
    dut.hasten(engine)
    for output in display.outputs()[:1]:
        display.show(output)
    return engine


def hang(
    dut: Dut, engine: Engine, seconds: float, *names: str, own: bool = False
) -> tuple[Fence, list[Waiter]]:
    """Hang, wait for that for so long in every way, or those named, and see it end."""
    tdr_s = dut.target.limits.tdr_s
    with dut.client() as guilty:
        if reason := dut.refusal(guilty):
            pytest.skip(reason)
        job, waits = guilty.hang_and_wait(engine, Deadline(seconds), *names, own=own)
        fence = guilty.wait(job, Deadline(tdr_s))
    assert fence.seconds, f"the fence did not signal within {tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    return fence, waits


def hit(waits: list[Waiter]) -> set[str]:
    """Those that a signal interrupted, and the next one found asleep again."""
    return {wait.name for wait in waits if wait.signals >= 2}


@pytest.mark.destructive
def test_every_wait_is_told_the_truth(dut: Dut) -> None:
    """Threads wait for a hung job in every way the kernel has, and again while signals hit them
    all through recovery: all come back after the fence, soon, and are told the same.

    Source: drivers/dma-buf/dma-fence.c dma_fence_default_wait(),
    drivers/gpu/drm/drm_syncobj.c drm_syncobj_array_wait_timeout().
    Runs on: sim-navi, sim-gen3.
    """
    engine, tdr_s = victim(dut), dut.target.limits.tdr_s
    seen: list[Waiter] = []
    for _ in range(TRIES):
        fence, waits = hang(dut, engine, tdr_s)
        truly_told(waits, fence, tdr_s / 2)
        seen += waits
        if not (deaf := {wait.name for wait in waits} - hit(seen)):
            break
    assert not deaf, f"no signal interrupted these, {TRIES} times: {deaf}"


def truly_told(waits: list[Waiter], fence: Fence, soon: float) -> None:
    """Each kind of wait was told READY, or the fence's own error where the driver tells that.  A
    driver may see a job's end before it signals the fence, but not halfway."""
    assert fence.seconds is not None
    told = defaultdict(set)
    for wait in waits:
        assert wait.result in (READY, named(fence.error)), f"{wait}; the fence {fence}"
        late = max(wait.began, fence.seconds) + soon
        assert fence.seconds / 2 < wait.ended < late, f"{wait}; the fence {fence}"
        told[wait.name].add(wait.result)
    assert all(len(results) == 1 for results in told.values()), f"signals changed it: {told}"


@pytest.mark.destructive
def test_a_wait_ends_when_its_time_is_over(dut: Dut) -> None:
    """Threads wait for a hung job, but not until it ends, and again while signals hit them: none
    gives up early, and no restart gives one its whole time anew.  Absolute timeouts need nothing
    for that; of a relative one the driver writes back what is left (i915_gem_wait_ioctl).

    Source: drivers/gpu/drm/i915/gem/i915_gem_wait.c i915_gem_wait_ioctl(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_gem.c amdgpu_gem_timeout(),
    drivers/gpu/drm/drm_syncobj.c drm_timeout_abs_to_jiffies().
    Runs on: sim-navi, sim-gen3.
    """
    engine = dut.engines()[0]
    seen: list[Waiter] = []
    for _ in range(TRIES):
        fence, waits = hang(dut, engine, SPAN_S)
        assert fence.seconds is not None
        timed = [wait for wait in waits if wait.timed]
        early = [str(w) for w in timed if w.result == LATE and w.ended < w.until - EARLY_S]
        due = [wait for wait in timed if wait.until + LONG_S < fence.seconds]
        late = [str(wait) for wait in due if wait.result != LATE]
        assert not late, f"these went on when their time was over: {late}; the fence {fence}"
        seen += due
        missed = {wait.name for wait in seen} - {w.name for w in seen if w.handled}
        if seen and not (missed or early):
            break
    if not seen:
        pytest.skip("the target is too slow: no wait's time was over before the job ended")
    assert not early, f"these gave up early, {TRIES} times in a row: {early}"
    assert not missed, f"no signal interrupted these, {TRIES} times: {missed}"


@pytest.mark.destructive
def test_who_cannot_be_interrupted_completes(dut: Dut) -> None:
    """A process takes away the page that its hung job writes.  Before it may, the driver's MMU
    notifier waits for the job, uninterruptibly (amdgpu_hmm_invalidate_gfx), or need not, for it
    pinned the page (i915_gem_userptr_invalidate).  Signals do not matter; recovery ends the job.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_hmm.c amdgpu_hmm_invalidate_gfx(),
    drivers/gpu/drm/i915/gem/i915_gem_userptr.c i915_gem_userptr_invalidate().
    Runs on: sim-navi, sim-gen3.
    """
    engine, waits = victim(dut), dut.gpu.unmap_waits()
    for _ in range(TRIES):
        fence, (munmap,) = hang(dut, engine, dut.target.limits.tdr_s, "munmap", own=True)
        assert fence.seconds is not None
        assert munmap.result == READY, f"{munmap}; the fence {fence}"
        early = waits and munmap.ended < fence.seconds
        assert not early, f"it did not wait for the job: {munmap}; {fence}"
        if munmap.signals or not waits:
            break
    assert munmap.signals or not waits, f"no signal came while it waited, {TRIES} times: {munmap}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job does not complete after recovery: {canary}"
