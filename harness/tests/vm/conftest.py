"""The virtual target that a module's tests share, and what must hold after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import inventory
from harness.evidence.rundir import RunDir, Window
from harness.lab.reservation import Reservation
from harness.link.machine import machine_for
from harness.live.dut import Dut
from harness.tests.inner import targets_file
from harness.tests.vm.guest import sh
from harness.verdict import judge

# What DRM says when it stopped waiting for a vblank.
LATE = "flip_done timed out|commit wait timed out|vblank wait timed out"


@pytest.fixture(scope="module")
def connected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dut]:
    """A machine of the module's own, with a modelled chip where it names a `CHIP`; its `CMDLINE`,
    if any, is added to the kernel's, its `EXTRA` to the target's table."""
    name = "sim-" + request.module.__name__.rpartition(".test_")[2].replace("_", "-")
    directory = tmp_path_factory.mktemp(name)
    cmdline = getattr(request.module, "CMDLINE", "")
    chip = getattr(request.module, "CHIP", "")
    extra = getattr(request.module, "EXTRA", "")
    path = targets_file(directory / "targets.toml", name, cmdline, extra, chip=chip)
    target = inventory.load(path).get(name)
    with Reservation.take(name, request.module.__name__):
        dut = Dut(target, RunDir.create(directory / "runs", name), machine_for(target), print)
        try:
            dut.connect()
            yield dut
        finally:
            dut.close()


@pytest.fixture
def expected() -> set[str]:
    """Kinds of failing findings that a test names because it provokes them; none by default."""
    return set()


@pytest.fixture
def sim_window(connected: Dut, request: pytest.FixtureRequest) -> Window:
    """The test's stretch of the kernel log.  Not called `window`: the plugin has one of its own."""
    return connected.begin(request.node.name, destructive=True)


@pytest.fixture
def sim(connected: Dut, sim_window: Window, expected: set[str]) -> Iterator[Dut]:
    """The target for one test: then lockdep is still armed, the kernel log has no finding that
    was not expected, and no commit gave up waiting."""
    assert sim_window.health_before["debug_locks"] == 1
    yield connected
    connected.end(sim_window)
    assert (sim_window.died, sim_window.lab_error) == ("", "")
    assert sim_window.health_after["debug_locks"] == 1, sh(connected, "dmesg | tail -n 150")
    failing = [f for f in judge(connected.run, sim_window).findings if f.severity != "note"]
    assert {finding.kind for finding in failing} <= expected, failing
    assert sh(connected, f"dmesg | grep -E '{LATE}' || true") == ""
