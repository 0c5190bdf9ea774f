"""The second chip of the model, 945G: its reset and its cursors are not G33's.  i915 probes it, and
a job that hangs is ended by a reset after which all is as before."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut
from harness.tests.vm.chip import Chip
from harness.tests.vm.guest import PATIENCE_S, sh

CHIP = "945g"


@pytest.mark.deep
def test_a_hang_is_recovered_from(sim: Dut) -> None:
    assert sh(sim, "cat /sys/bus/pci/devices/0000:00:02.0/device").strip() == "0x2772"
    (engine,) = sim.engines()
    guilty, bystander = sim.client(), sim.client()
    assert bystander.canary(engine).ok
    chip = Chip(sim)
    before = chip.resets()
    sim.hasten(engine)
    fence = guilty.wait(guilty.hang(engine), Deadline(PATIENCE_S))
    assert fence.signaled
    assert fence.error in sim.gpu.hang_errors()
    assert bystander.canary(engine).ok
    assert chip.resets() > before
    chip.close()
