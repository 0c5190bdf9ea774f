"""The kernel's own tests: of the driver, mock ones, which need no hardware, and live ones, on the
GPU itself; and of what every driver builds on, DRM's KUnit suites, dma-buf's and ww_mutex's.

They run while a module is loaded; a driver is taken out first and put back afterwards.
Whatever fails among them is a finding, from the kernel log.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import pytest

from harness.errors import TargetError
from harness.evidence.rundir import Window
from harness.kernel import modtests, selftests
from harness.kernel.selftests import Group, Kind
from harness.live.dut import Dut
from harness.live.selftests import loads

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
    # of dma-buf: at each of 4096 signals of a chain they walk what is left of it
    "dma-buf": ("wait_backward", "wait_race"),
}
# They may keep a CPU for longer than a driver may: write an aperture word by word, for one.
PATIENT = {
    "/proc/sys/kernel/soft_watchdog": "0",
    "/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress": "1",
    "/sys/module/workqueue/parameters/watchdog_thresh": "0",
}


# drivers/gpu/drm/tests/Makefile of 6.12; what of these a kernel has not is left out.
KUNIT = tuple(
    f"drm_{name}_test"
    for name in (
        *("buddy", "cmdline_parser", "connector", "damage_helper", "dp_mst_helper", "exec"),
        *("format_helper", "format", "framebuffer", "gem_shmem", "managed", "mm", "modes"),
        *("plane_helper", "probe_helper", "rect"),
        # last, for it keeps a lock when its thread ends, at which lockdep stops
        "hdmi_state_helper",
    )
)
# What these leave behind when they are taken out.
HELPERS = ("drm_kunit_helpers", "kunit")
# Of one module, in seconds: ww_mutex's stress alone takes ten, and more where lockdep is slow.
OWN_S = 300.0


def run(dut: Dut, window: Window, chosen: list[Group], seconds: float, deep: bool) -> None:
    """Run groups of one kind, each once: a failing one ends a load, the others get another."""
    module, kind = dut.module(selftests.MODULE), chosen[0].kind
    without = () if deep else LONG[kind]
    with dut.without(window, module):
        be_patient(dut)
        for ended, ran in loads(module, chosen, without, seconds, lambda: dut.log(window)):
            assert ran, f"no selftest ran: {kind}_selftests is {ended!r}"
            why = ended == str(selftests.PASSED) or ran[-1].failed
            assert why, f"{ran[-1].group} ended with {ended}, and no subtest says why"
    ran = selftests.find(dut.log(window))
    told = {"left out": without, "groups": [asdict(group) for group in ran]}
    dut.keep(window, "selftests.json", json.dumps(told, indent=1).encode())


def be_patient(dut: Dut) -> None:
    """Until the test's end."""
    for path, value in PATIENT.items():
        with contextlib.suppress(TargetError):  # a kernel without that watchdog
            dut.call("knob", path=path, value=value)


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


def own(
    dut: Dut, window: Window, names: tuple[str, ...], config: str, without: tuple[str, ...] = ()
) -> None:
    """Load modules that test while they load, and no device's driver; out again with each."""
    modules = [module for name in names if (module := dut.module(name)).exists()]
    if not modules:
        pytest.skip(f"this kernel has no module {names[0]}: {config}")
    be_patient(dut)
    refused: list[str] = []
    for module in modules:
        module.unload()
        try:
            module.load(selftests.leave_out(without), OWN_S)
        except TargetError as error:  # the log says which test it was
            refused.append(str(error))
        module.unload()
    ran = modtests.find(dut.log(window))
    dut.keep(
        window, "selftests.json", json.dumps([asdict(test) for test in ran], indent=1).encode()
    )
    failed = [test.title for test in ran if test.outcome in ("fail", "missing")]
    assert not failed, ", ".join(failed)
    assert not refused, f"no test says why: {'; '.join(refused)}"
    assert ran, f"{', '.join(module.name for module in modules)}: no test ran"


@pytest.mark.destructive
def test_drm_kunit(dut: Dut, window: Window) -> None:
    """DRM's own suites of its helpers pass, on devices of their own.

    Source: drivers/gpu/drm/tests/Makefile, lib/kunit/test.c.
    Runs on: sim-navi, sim-gen3 (where the kernel has the modules).
    """
    own(dut, window, KUNIT, "CONFIG_DRM_KUNIT_TEST=m")
    for name in HELPERS:
        dut.module(name).unload()


@pytest.mark.destructive
def test_dma_buf(dut: Dut, window: Window, deep: bool) -> None:
    """dma-buf's selftests of fences, their chains and containers, and of reservations pass.

    Source: drivers/dma-buf/selftests.h.
    Runs on: sim-navi, sim-gen3 (where the kernel has the module).
    """
    without = () if deep else LONG["dma-buf"]
    own(dut, window, ("dmabuf_selftests",), "CONFIG_DMABUF_SELFTESTS=m", without)


@pytest.mark.destructive
def test_ww_mutex(dut: Dut, window: Window) -> None:
    """The locks of reservations and of modesetting find deadlocks, and orders that back off work.

    Source: kernel/locking/test-ww_mutex.c.
    Runs on: sim-navi, sim-gen3 (where the kernel has the module).
    """
    own(dut, window, ("test-ww_mutex",), "CONFIG_WW_MUTEX_SELFTEST=m")
