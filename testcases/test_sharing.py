"""Buffers shared with another driver: whose fences hold up whom, through dma_resv.

By PRIME, with vgem.  Each driver must take the other's fences as seriously as its own: include/
linux/dma-resv.h (enum dma_resv_usage) and Documentation/driver-api/dma-buf.rst.
"""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.client import Client
from harness.live.dut import Dut
from harness.live.generic import Generic
from harness.live.waiters import LATE

# How long a job is looked at that must not run, and what vgem's own steps may take, in seconds.
# vgem ends its fences after 10 s, and i915 waits no longer for another driver's.
LOOK_S, PATIENCE_S = 1.0, 10.0
# Recovery may be over before a slow machine's vgem looks: then once more.
TRIES = 3
# What a wait is given, far less than vgem's fence lasts; and how much sooner it may end: timeouts
# count in jiffies, and those stand still while a host lets no timer interrupt through.
GIVEN_S, EARLY_S = 3.0, 0.5


def partners(dut: Dut) -> tuple[Client, Generic, Engine]:
    """A client of the GPU that may hang it, one of vgem's, and the engine."""
    client, vgem = dut.client(), dut.generic()
    if vgem.no_vgem:
        pytest.skip(vgem.no_vgem)
    if reason := dut.refusal(client):
        pytest.skip(reason)
    return client, vgem, dut.engines()[0]


@pytest.mark.destructive
def test_another_driver_sees_the_end_of_a_hang(dut: Dut) -> None:
    """A hung job writes a buffer that vgem has imported: vgem may not use it until recovery has
    ended the job (vgem_fence_attach_ioctl: EBUSY), sees how it ended, and then may.

    Source: drivers/gpu/drm/vgem/vgem_fence.c vgem_fence_attach_ioctl(),
    drivers/dma-buf/dma-resv.c dma_resv_add_fence().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, vgem, engine = partners(dut)
    buffer, theirs = vgem.borrow(guilty)
    for _ in range(TRIES):
        job = guilty.hang(engine, context=guilty.context(), writes=theirs)
        seen = vgem.exported(buffer, write=True)
        early = vgem.attach(buffer, write=True)
        fence = guilty.wait(job, Deadline(dut.target.limits.tdr_s))
        if early.errname:
            break
        assert vgem.signal(early) == ""

    assert early.errname == "EBUSY", f"vgem did not see the job's fence, {TRIES} times"
    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    assert vgem.wait(seen, Deadline(PATIENCE_S)), "the job ended, and vgem's view of it did not"
    assert vgem.info(seen).status == fence.error
    late = vgem.attach(buffer, write=True)
    assert late.errname == "", f"the buffer is in use after recovery: {late.errname}"
    assert vgem.signal(late) == ""
    assert vgem.ready(buffer, Deadline(PATIENCE_S), write=True)


@pytest.mark.destructive
def test_a_job_waits_for_another_drivers_fence(dut: Dut, window: Window) -> None:
    """A job that writes vgem's buffer runs only when vgem's fence there has signalled
    (amdgpu_sync.c, amdgpu_sync_resv; i915_request.c, i915_request_await_object), then ends
    without an error; and who waits for another is not called hung.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_sync.c amdgpu_sync_resv(),
    drivers/gpu/drm/i915/i915_request.c i915_request_await_object().
    Runs on: sim-navi, sim-gen3.
    """
    client, vgem, engine = partners(dut)
    buffer = vgem.buffer()
    theirs = vgem.share(buffer, client)
    held = vgem.attach(buffer, write=True)
    assert held.errname == ""
    job = client.hang(engine, writes=theirs)
    client.release(job)  # if it ran now, it would end at once
    early = client.wait(job, Deadline(LOOK_S))
    signalled = vgem.signal(held)
    fence = client.wait(job, Deadline(dut.target.limits.tdr_s))

    if signalled == "ETIMEDOUT":
        pytest.skip("the target is too slow: vgem's fence ended by itself")
    assert signalled == ""
    assert not early.signaled, "the job did not wait for vgem's fence"
    assert fence.signaled, "the job did not run after vgem's fence"
    assert fence.error == 0, f"the fence {fence}"
    assert not dut.gpu_events(window)


@pytest.mark.destructive
def test_a_wait_behind_another_driver_ends_in_its_time(dut: Dut, window: Window) -> None:
    """Whoever waits for a buffer, behind a fence of vgem's that does not signal, gives up in his
    time, however often signals interrupt him: neither before, nor by then only from the last of
    them (of a relative timeout i915_gem_wait_ioctl writes back what is left, for the restart).

    Source: drivers/gpu/drm/i915/gem/i915_gem_wait.c i915_gem_wait_ioctl(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_gem.c amdgpu_gem_wait_idle_ioctl(),
    drivers/dma-buf/dma-buf.c dma_buf_poll().
    Runs on: sim-navi, sim-gen3.
    """
    client, vgem, _ = partners(dut)
    buffer = vgem.buffer()
    theirs = vgem.share(buffer, client)
    held = vgem.attach(buffer, write=True)
    assert held.errname == ""
    waits = client.wait_behind(theirs, GIVEN_S)

    # Where each signal gave the whole time anew, only vgem's giving up would end it.
    calm = max(wait.ended - wait.began for wait in waits if not wait.disturbed)
    slow = [str(w) for w in waits if w.disturbed and w.ended - w.began > calm + GIVEN_S]
    assert not slow, f"signals made these wait on: {slow}"
    if vgem.signal(held) == "ETIMEDOUT":
        pytest.skip("the target is too slow: vgem's fence ended by itself")
    assert {wait.result for wait in waits} == {LATE}, list(map(str, waits))
    early = [str(wait) for wait in waits if wait.ended - wait.began < GIVEN_S - EARLY_S]
    assert not early, f"before their time, {GIVEN_S:g} s: {early}"
    deaf = [str(wait) for wait in waits if wait.disturbed and wait.handled < 2]
    assert not deaf, f"no signals interrupted these: {deaf}"
    assert not dut.gpu_events(window)
