"""A monitor beside a hang: is the picture back after recovery, and do flips flow?

A reset may take the display with it.  Then the driver must set the mode again
by itself; a client that flips must not notice more than a late frame.
"""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.live.display import Display, Output
from harness.live.dut import Dut

# Within which a display is back after a reset, and a flip or a vblank comes, in seconds: hundreds
# of frames, yet less than it takes a user to reach for the power button.
PATIENCE_S = 10.0
# Frames that a CRC is looked for in: a first one may be of a display that is not yet up.
FRAMES = 8


def crc_comes_back(display: Display, output: Output, known: str | None) -> None:
    """Some frame is the known one again, in time."""
    if known is not None:
        crcs = display.crcs_until(output, known, PATIENCE_S)
        assert crcs, f"nothing is scanned out: no frame within {PATIENCE_S:g} s"
        assert known in crcs, f"another frame is scanned out: its CRC is {crcs[-1]}, it was {known}"


@pytest.mark.destructive
def test_picture_and_flips_survive_a_hang(dut: Dut) -> None:
    """A client flips while another process hangs the GPU: afterwards the mode is active, the
    same frame is scanned out, vblanks and flips deliver their events.

    Source: drivers/gpu/drm/i915/display/intel_display_reset.c intel_display_reset_finish(),
    drivers/gpu/drm/amd/display/amdgpu_dm/amdgpu_dm.c dm_resume(),
    drivers/gpu/drm/drm_vblank.c drm_crtc_send_vblank_event().
    Runs on: sim-navi, sim-gen3.
    """
    display = dut.display()
    outputs = display.outputs()
    if not outputs:
        pytest.skip("no monitor is connected")
    output = outputs[0]
    display.show(output)
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    crcs = display.crcs(output, FRAMES, PATIENCE_S)  # None where the driver offers none
    steady = crcs is None or (len(crcs) > 1 and crcs[-1] == crcs[-2])
    assert steady, f"a frame that stands still has changing CRCs, or none: {crcs}"
    known = crcs[-1] if crcs else None
    flips = display.flips(1.0, PATIENCE_S)
    assert not flips.lost, f"flips do not work before the hang: of their events {flips}"

    job = guilty.hang(engine)
    deadline = Deadline(dut.target.limits.tdr_s)
    fence = guilty.wait(job, Deadline(0.0))
    during = flips
    while not fence.signaled and not deadline.expired():
        if not during.lost:
            during = display.flips(0.5, PATIENCE_S)
        fence = guilty.wait(job, Deadline(0.1))
    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"

    assert display.active(), "the CRTC has no mode after the reset"
    crc_comes_back(display, output, known)
    assert display.vblank(PATIENCE_S), f"no vblank event within {PATIENCE_S:g} s after the reset"
    assert not during.lost, f"the event of a flip beside the reset was lost: {during}"
    after = display.flips(1.0, PATIENCE_S)
    assert not after.lost, f"the event of a flip after the reset was lost: {after}"
    crc_comes_back(display, output, known)
