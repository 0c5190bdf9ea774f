"""The seed's console: recovery while the framebuffer console is drawn, under console_lock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut

# Lines a second, and for how long at least, in seconds; a log of that is still no flood.
RATE, SPAN_S = 200, 5.0


@pytest.mark.destructive
def test_recovers_beside_a_busy_console(dut: Dut) -> None:
    """The kernel prints without pause, and somebody writes, onto a console that is drawn through
    the very GPU that hangs: recovery, which may want console_lock, still comes through in time,
    and the console goes on.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_device.c amdgpu_device_gpu_recover() by
    drm_fb_helper_set_suspend_unlocked(), drivers/video/fbdev/core/fbcon.c,
    drivers/gpu/drm/i915/display/intel_display_reset.c intel_display_reset_prepare().
    Runs on: sim-gen3 (with drm_kms_helper.fbdev_emulation=1, else skips),
    sim-navi (with amdgpu.sim_fbdev=1, else skips).
    """
    console = dut.console()
    if reason := console.refusal():
        pytest.skip(reason)
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    with console.bound(), ThreadPoolExecutor(1) as pool:
        flood = pool.submit(console.flood, RATE, SPAN_S)
        fences = guilty.hang_until(engine, Deadline(SPAN_S), dut.target.limits.tdr_s)
        lines = flood.result()

    told = [str(fence) for fence in fences]
    assert all(fence.signaled for fence in fences), f"{told}; {lines} lines were printed"
    assert all(fence.error in dut.gpu.hang_errors() for fence in fences), told
    assert lines, "not a line was printed beside the hangs: the console stood still"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job afterwards: {canary}"
