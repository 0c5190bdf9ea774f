"""Does userspace learn of a reset?  What no listener hears, no compositor can act on."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.live.dut import Dut

# Within which a reset is announced once it is over, in seconds.
PATIENCE_S = 10.0


@pytest.mark.destructive
def test_udev_hears_of_a_reset(dut: Dut, window: Window) -> None:
    """A reset is announced by the uevents that its driver promises, in their order, and every
    one that the kernel sent reaches udev's listeners.

    Source: drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_reset_global(); from 6.15 on
    drivers/gpu/drm/drm_drv.c drm_dev_wedged_event().
    Runs on: sim-gen3, sim-navi.
    """
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    with dut.udev() as listening:
        fence = guilty.wait(guilty.hang(engine), Deadline(dut.target.limits.tdr_s))
        assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
        events = dut.recovered(window, Deadline(dut.target.limits.tdr_s))
        listening.wait(PATIENCE_S)

    scopes = [event.scope for event in events if event.step == "reset-begin"]
    promised = [pair for scope in scopes for pair in dut.gpu.announced(scope)]
    sent, heard = listening.told(listening.kernel), listening.told(listening.udev)
    if not promised and not sent:
        pytest.skip("this driver announces no such reset on this kernel")
    assert not promised or sent == promised, f"announced {sent}, promised {promised}"
    assert heard == sent, f"the kernel told {sent}, udev {heard}"
