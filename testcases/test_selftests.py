"""The driver's own tests: mock ones, which need no hardware, and live ones, on the GPU itself.

They run while the module is loaded, so it is taken out first and put back afterwards.
Whatever fails among them is a finding, from the kernel log.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from harness.dut import Dut
from harness.evidence.rundir import Window
from harness.kernel import selftests
from harness.kernel.selftests import Group, Kind, Run
from harness.module import Module

# drivers/gpu/drm/i915/selftests/i915_mock_selftests.h of 6.12.  "" is for what newer kernels have.
MOCK = (
    *("sanitycheck", "shmem", "fence", "scatterlist", "syncmap", "uncore", "ring", "engine"),
    *("timelines", "requests", "objects", "phys", "dmabuf", "vma", "evict", "gtt", "hugepages"),
    *("memory_region", ""),
)
# Of one load, in seconds.  Nothing ends a selftest from outside, and lockdep in emulation makes
# minutes of the longest.
MOCK_S, LIVE_S = 1200.0, 3600.0


def run(dut: Dut, window: Window, module: Module, chosen: list[Group], seconds: float) -> list[Run]:
    """Run groups of one kind, each once: a failing one ends a load, the others get another."""
    kind = chosen[0].kind
    ran = selftests.find(dut.log(window))
    left = list(chosen)
    with dut.without(window, module):
        while left:
            module.load(selftests.arguments(left), seconds)
            ended = module.value(selftests.result(kind))
            module.unload()
            before, ran = len(ran), selftests.find(dut.log(window))
            done = [one.group for one in ran[before:]]
            told = ended == str(selftests.PASSED) or (ran and ran[-1].failed)
            assert done, f"no selftest ran: {kind}_selftests is {ended!r}"
            assert told, f"{done[-1]} ended with {ended}, and no subtest says why"
            left = [group for group in left if group.name not in done]
    dut.keep(window, "selftests.json", json.dumps([asdict(r) for r in ran], indent=1).encode())
    return ran


def groups(module: Module, kind: Kind) -> list[Group]:
    """The groups of the target's module; a kernel without them skips the test."""
    found = selftests.groups(module.parameters(), kind)
    if not found:
        pytest.skip(f"this kernel has no module {module.name} with {kind} selftests")
    return found


@pytest.mark.destructive
@pytest.mark.parametrize("group", [pytest.param(g, id=g or "others") for g in MOCK])
def test_mock(dut: Dut, window: Window, group: str) -> None:
    """One group of tests that bring their own hardware: on any target whose kernel has them."""
    module = dut.module(selftests.MODULE)
    known = groups(module, "mock")
    chosen = [g for g in known if g.name == group or (not group and g.name not in MOCK)]
    if not chosen:
        pytest.skip(f"this kernel has no group {group}" if group else "this kernel has no others")
    run(dut, window, module, chosen, MOCK_S)


@pytest.mark.destructive
def test_live(dut: Dut, window: Window) -> None:
    """All groups that run on the GPU of the target, in one go: taking the driver out and in
    again takes longer than most of them."""
    module = dut.module(selftests.MODULE)
    if dut.card["driver"] != module.name:
        pytest.skip(f"the driver of this card is not {module.name}, whose tests these are")
    run(dut, window, module, groups(module, "live"), LIVE_S)
