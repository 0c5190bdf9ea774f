"""Could lockdep have seen it?  Without this test the silence of all others proves less."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut


@pytest.mark.destructive
def test_lockdep_watches_recovery(dut: Dut) -> None:
    """Lockdep is armed, knows that a fence may be waited for under every lock that recovery must
    not take, and saw recovery in a fence-signalling section in this very boot.

    Source: drivers/dma-buf/dma-fence.c dma_fence_begin_signalling(), drivers/dma-buf/dma-resv.c
    dma_resv_lockdep(), drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/i915/i915_vma_resource.c i915_vma_resource_hold().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    locks = dut.health()["debug_locks"]
    assert locks is not None, "blind: this kernel has no lockdep"
    dut.hasten(engine)

    fence = guilty.wait(guilty.hang(engine), Deadline(dut.target.limits.tdr_s))

    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    seen = dut.coverage()
    assert not seen.unprimed, seen.priming()
    assert seen.annotated, seen.path()
    assert dut.health()["debug_locks"] == 1, "lockdep is off: it has reported something"
