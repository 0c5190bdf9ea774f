"""Recovery meets whatever else takes the device's locks: DPMS, modesets, unbinding, suspend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.live.display import Display
from harness.live.dut import Dut

# How long the display changes while hang follows upon hang, in seconds.
SPAN_S, DEEP_S = 3.0, 120.0
# Within which a display is back after a reset, and a flip comes, in seconds.
PATIENCE_S = 10.0


@pytest.mark.destructive
@pytest.mark.parametrize("how", ["dpms", "modeset"])
def test_reset_races_the_display(dut: Dut, how: Literal["dpms", "modeset"], deep: bool) -> None:
    """Another process switches the display off and on all the time while the GPU hangs again and
    again: neither holds up the other for good, each hang ends with the right error, and then
    the picture is there and flips flow.

    Source: drivers/gpu/drm/i915/display/intel_display_reset.c intel_display_reset_prepare(),
    drivers/gpu/drm/amd/display/amdgpu_dm/amdgpu_dm.c dm_suspend(),
    drivers/gpu/drm/drm_atomic.c drm_atomic_connector_commit_dpms().
    Runs on: sim-navi, sim-gen3.
    """
    display, guilty, engine = dut.display(), dut.client(), dut.engines()[0]
    if not (outputs := display.outputs()):
        pytest.skip("no monitor is connected")
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    display.show(outputs[0])
    span, limit = DEEP_S if deep else SPAN_S, dut.target.limits.tdr_s
    with ThreadPoolExecutor(1) as pool:
        blinking = pool.submit(display.blink, how, span, 2 * limit)
        fences = guilty.hang_until(engine, Deadline(span), limit)
        times = blinking.result()

    told = [str(fence) for fence in fences]
    assert all(fence.error in dut.gpu.hang_errors() for fence in fences if fence.signaled), told
    assert fences[-1].signaled, f"hang {len(fences)} did not end; {times} times off and on"
    works_again(display, PATIENCE_S)
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job afterwards: {canary}"


def works_again(display: Display, patience_s: float) -> None:
    """The display has its mode, and flips flow."""
    assert display.active(), "the CRTC has no mode afterwards"
    flips = display.flips(0.5, patience_s)
    assert not flips.lost, f"the event of a flip afterwards was lost: {flips}"


@pytest.mark.destructive
def test_driver_is_unbound_beside_a_hang(dut: Dut) -> None:
    """The driver is taken from the device while a job hangs, and given it again: unbinding ends,
    and the job's fence with it; afterwards the GPU and its display work.

    Source: drivers/gpu/drm/drm_drv.c drm_dev_unplug(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_drv.c amdgpu_pci_remove(),
    drivers/gpu/drm/i915/i915_driver.c i915_driver_remove().
    Runs on: sim-navi, sim-gen3.
    """
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    job = guilty.hang(engine)
    with dut.unbound(Deadline(2 * dut.target.limits.tdr_s)):
        fence = guilty.wait(job, Deadline(dut.target.limits.tdr_s))
        guilty.stop()
    assert fence.signaled, "the driver left, and left a fence pending"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"once the driver was back: {canary}"
    with dut.display() as display:
        if outputs := display.outputs():
            display.show(outputs[0])
            works_again(display, PATIENCE_S)


@pytest.mark.destructive
def test_suspend_to_idle_beside_a_hang(dut: Dut, window: Window) -> None:
    """The machine goes to sleep, to idle, while a job hangs, and is woken: the job
    ends with the right error, before or after, and the GPU works.

    Source: kernel/power/suspend.c s2idle_loop(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_drv.c amdgpu_pmops_suspend(),
    drivers/gpu/drm/i915/i915_driver.c i915_pm_suspend().
    Runs on: sim-navi, sim-gen3 (kernels without CONFIG_SUSPEND skip).
    """
    sleep = dut.sleep()
    if reason := sleep.refusal():
        pytest.skip(reason)
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    sleep.prepare()
    job = guilty.hang(engine)
    sleep.sleep()
    fence = guilty.wait(job, Deadline(2 * dut.target.limits.tdr_s))
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    dut.recovered(window, Deadline(dut.target.limits.tdr_s))
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"after the sleep: {canary}"
