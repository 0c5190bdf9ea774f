"""Hang after hang: does the last one end as the first did?

What a recovery forgets to put back, or leaves a little worse, shows in a later one.
"""

from __future__ import annotations

from collections import Counter

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.live.dut import Dut

HANGS, DEEP = 5, 50
# Within which a display is back after a reset, and a flip comes, in seconds.
PATIENCE_S = 10.0


@pytest.mark.destructive
def test_hang_after_hang(dut: Dut, window: Window, deep: bool) -> None:
    """Each hang, of a process of its own, is noticed and ended by recovery; then the monitor has
    its mode, flips flow, and another process's job completes.

    Source: drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_timedout(),
    drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_handle_error().
    Runs on: sim-navi, sim-gen3.
    """
    hangs = DEEP if deep else HANGS
    bystander, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(bystander):
        pytest.skip(reason)
    dut.hasten(engine)
    display = dut.display()
    shown = display.outputs()
    if shown:
        display.show(shown[0])

    for nth in range(1, hangs + 1):
        with dut.client() as guilty:
            fence = guilty.wait(guilty.hang(engine), Deadline(dut.target.limits.tdr_s))
        assert fence.signaled, f"hang {nth}: the fence did not signal"
        assert fence.error in dut.gpu.hang_errors(), f"hang {nth}: the fence {fence}"
        canary = bystander.canary(engine)
        assert canary.ok, f"hang {nth}: a second client's job afterwards: {canary}"
        if shown:
            flips = display.flips(0.1, PATIENCE_S)
            assert not flips.lost, f"hang {nth}: the event of a flip afterwards was lost: {flips}"
            assert display.active(), f"hang {nth}: the CRTC has no mode afterwards"

    steps = Counter(e.step for e in dut.recovered(window, Deadline(dut.target.limits.tdr_s)))
    noticed = steps["hang"] + steps["soft-recovered"]
    assert noticed == hangs, f"{hangs} hangs, of which the kernel noticed {noticed}"
    assert steps["reset-done"] == steps["reset-begin"], f"resets that did not end: {dict(steps)}"
