"""Does a reset keep anything for itself?"""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.evidence.rundir import Window
from harness.live.dut import Dut
from harness.live.held import grown

# What is allocated for good at the first resets is no leak.
WARM_UP, RESETS, DEEP = 5, 10, 50
KMEMLEAK = "/sys/kernel/debug/kmemleak"


def reset(dut: Dut, times: int) -> None:
    for _ in range(times):
        dut.reset_gpu(Deadline(dut.target.limits.tdr_s))


@pytest.mark.destructive
@pytest.mark.without_lockdep
def test_resets_leak_no_memory(dut: Dut, window: Window, deep: bool) -> None:
    """Twice as many resets later the kernel does not hold more memory, slabs or open files, and
    more again: what grows once is no leak, what grows with each reset is.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_device.c amdgpu_device_gpu_recover(),
    drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_reset().
    Runs on: sim-navi, sim-gen3.
    """
    if dut.gpu.manual_reset(dut.card) is None:
        pytest.skip("this driver has no manual reset")
    client, resets = dut.client(), DEEP if deep else RESETS
    if reason := dut.refusal(client):
        pytest.skip(reason)
    reset(dut, WARM_UP)
    levels = [dut.held()]
    for _ in range(2):
        reset(dut, resets)
        levels.append(dut.held())

    patience = Deadline(dut.target.limits.tdr_s)
    done = sum(event.step == "reset-done" for event in dut.recovered(window, patience))
    assert done >= WARM_UP + 2 * resets, f"only {done} completed resets in the log"
    leaks = grown(levels, resets)
    assert not leaks, f"of resets {'; '.join(leaks)}"


@pytest.mark.destructive
def test_hangs_leave_no_memory_unreferenced(dut: Dut, deep: bool) -> None:
    """After hang upon hang kmemleak finds nothing that was allocated since and that nobody
    points to any more.

    Source: mm/kmemleak.c, drivers/gpu/drm/scheduler/sched_main.c drm_sched_job_cleanup(),
    drivers/gpu/drm/i915/i915_gpu_error.c __i915_gpu_coredump_free().
    Runs on: sim-navi, sim-gen3 (with kmemleak=on, else skips).
    """
    if reason := no_kmemleak(dut):
        pytest.skip(reason)
    tell(dut, "clear")
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(engine)
    limit = dut.target.limits.tdr_s
    fences = guilty.hang_until(engine, Deadline(DEEP * 2.0 if deep else 2.0), limit)
    assert fences[-1].signaled, f"hang {len(fences)} did not end"
    guilty.stop()
    for _ in range(2):  # what is new is not called a leak at the first scan
        tell(dut, "scan")
    found = b64decode(dut.call("read", path=KMEMLEAK)["data"]).decode()
    assert not found, f"after {len(fences)} hangs:\n{found[:2000]}"


def no_kmemleak(dut: Dut) -> str:
    """Why kmemleak sees nothing here, or "".  Where it is off it refuses all but `clear`
    (mm/kmemleak.c, kmemleak_write())."""
    try:
        dut.call("read", path=KMEMLEAK)
    except TargetError as error:
        return f"this kernel has no kmemleak (CONFIG_DEBUG_KMEMLEAK): {error.what}"
    try:
        tell(dut, "scan")
    except TargetError as error:
        return f"kmemleak is off, boot with kmemleak=on: {error.what}"
    return ""


def tell(dut: Dut, word: str) -> None:
    data = b64encode(f"{word}\n".encode()).decode()
    dut.call("write", path=KMEMLEAK, data=data, seconds=dut.target.limits.command_s)
