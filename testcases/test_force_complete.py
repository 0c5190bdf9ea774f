"""Recovery that cannot be: when the GPU is not reset, its fences must still end.

A driver that gives up owes its waiters an error, new work a refusal, and whoever mends the
cause a way back.
"""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut


@pytest.mark.destructive
def test_without_a_reset_every_fence_ends(dut: Dut) -> None:
    """Reset is switched off: the fences of a hang and of a job behind it end with an error, new
    work is refused; switched on again, a reset by hand brings the GPU back.

    Source: drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_set_wedged(), intel_gt_unset_wedged().
    Runs on: sim-gen3, sim-navi (amdgpu has no such knob: skips).
    """
    knob, engine = dut.gpu.no_reset(dut.card), dut.engines()[0]
    if knob is None:
        pytest.skip("this driver has no knob that switches resets off")
    guilty, behind = dut.client(), dut.client()
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    dut.turn(knob)
    try:
        hangs = [(client, client.hang(engine)) for client in (guilty, behind)]
        deadline = Deadline(2 * dut.target.limits.tdr_s)
        fences = [client.wait(job, deadline) for client, job in hangs]
        refused = behind.canary(engine)
    finally:
        dut.restore()
        dut.reset_gpu(Deadline(dut.target.limits.tdr_s))

    assert all(fence.signaled for fence in fences), "a fence was left pending for good"
    assert all(fence.error in dut.gpu.hang_errors() for fence in fences), fences
    assert (refused.stage, refused.errname) == ("submit", "EIO"), f"new work: {refused}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"after the reset was switched on again: {canary}"
