"""The driver's own tests: mock ones, which need no hardware, and live ones, on the GPU itself.

They run while the module is loaded, so it is taken out first and put back afterwards.
Whatever fails among them is a finding, from the kernel log.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import pytest

from harness.dut import Dut
from harness.errors import TargetError
from harness.evidence.rundir import Window
from harness.kernel import selftests
from harness.kernel.selftests import Group, Kind
from harness.selftests import loads

# drivers/gpu/drm/i915/selftests/i915_mock_selftests.h of 6.12.  "" is for what newer kernels have.
MOCK = (
    *("sanitycheck", "shmem", "fence", "scatterlist", "syncmap", "uncore", "ring", "engine"),
    *("timelines", "requests", "objects", "phys", "dmabuf", "vma", "evict", "gtt", "hugepages"),
    *("memory_region", ""),
)
# Of one load, in seconds.  Nothing ends a selftest from outside, and lockdep in emulation makes
# minutes of the longest.
MOCK_S, LIVE_S = 1200.0, 3600.0
# Minutes each where memory is slow or lockdep is on; they run with --deep.
LONG = {
    "mock": ("mock_hwsp_freelist", "igt_vma_rotate_remap", "igt_vma_partial"),
    "live": ("igt_mmap",),
}
# They may keep a CPU for longer than a driver may: write an aperture word by word, for one.
PATIENT = {
    "/proc/sys/kernel/soft_watchdog": "0",
    "/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress": "1",
    "/sys/module/workqueue/parameters/watchdog_thresh": "0",
}


def run(dut: Dut, window: Window, chosen: list[Group], seconds: float, deep: bool) -> None:
    """Run groups of one kind, each once: a failing one ends a load, the others get another."""
    module, kind = dut.module(selftests.MODULE), chosen[0].kind
    without = () if deep else LONG[kind]
    with dut.without(window, module):
        for path, value in PATIENT.items():
            with contextlib.suppress(TargetError):  # a kernel without that watchdog
                dut.call("knob", path=path, value=value)
        for ended, ran in loads(module, chosen, without, seconds, lambda: dut.log(window)):
            assert ran, f"no selftest ran: {kind}_selftests is {ended!r}"
            why = ended == str(selftests.PASSED) or ran[-1].failed
            assert why, f"{ran[-1].group} ended with {ended}, and no subtest says why"
    ran = selftests.find(dut.log(window))
    told = {"left out": without, "groups": [asdict(group) for group in ran]}
    dut.keep(window, "selftests.json", json.dumps(told, indent=1).encode())


def groups(dut: Dut, kind: Kind) -> list[Group]:
    """The groups of the target's module; a kernel without them skips the test."""
    found = selftests.groups(dut.module(selftests.MODULE).parameters(), kind)
    if not found:
        pytest.skip(f"this kernel has no module {selftests.MODULE} with {kind} selftests")
    return found


@pytest.mark.destructive
@pytest.mark.parametrize("group", [pytest.param(g, id=g or "others") for g in MOCK])
def test_mock(dut: Dut, window: Window, deep: bool, group: str) -> None:
    """One group of tests that bring their own hardware: on any target whose kernel has them.

    Source: drivers/gpu/drm/i915/selftests/i915_mock_selftests.h.
    Runs on: sim-gen3, sim-navi (where the kernel has the module).
    """
    known = groups(dut, "mock")
    chosen = [g for g in known if g.name == group or (not group and g.name not in MOCK)]
    if not chosen:
        pytest.skip(f"this kernel has no group {group}" if group else "this kernel has no others")
    run(dut, window, chosen, MOCK_S, deep)


@pytest.mark.destructive
def test_live(dut: Dut, window: Window, deep: bool) -> None:
    """All groups that run on the GPU of the target, in one go: taking the driver out and in
    again takes longer than most of them.

    Source: drivers/gpu/drm/i915/selftests/i915_live_selftests.h.
    Runs on: sim-gen3, sim-navi (not its driver: skips).
    """
    if dut.card["driver"] != selftests.MODULE:
        pytest.skip(f"the driver of this card is not {selftests.MODULE}, whose tests these are")
    run(dut, window, groups(dut, "live"), LIVE_S, deep)
