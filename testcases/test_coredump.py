"""What a hang leaves for whoever has to find its cause."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.live.dut import Dut

# Within which the dump of a reset must be there, in seconds after the fence.
PATIENCE_S = 20.0


@pytest.mark.destructive
@pytest.mark.without_lockdep
def test_hang_leaves_a_whole_dump(dut: Dut, window: Window) -> None:
    """After a reset the device has a dump of what hung, with every part that its driver
    promises; whoever has read it can free it, and then it is gone.

    Source: drivers/base/devcoredump.c dev_coredumpm(),
    drivers/gpu/drm/amd/amdgpu/amdgpu_dev_coredump.c amdgpu_devcoredump_read(),
    drivers/gpu/drm/i915/i915_gpu_error.c __err_print_to_sgl().
    Runs on: sim-navi, sim-gen3.
    """
    coredump = dut.coredump()
    if coredump is None:
        pytest.skip("this driver makes no dump")
    if reason := coredump.refusal():
        pytest.skip(reason)
    guilty, engine = dut.client(), dut.engines()[0]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    coredump.discard()

    fence = guilty.wait(guilty.hang(engine), Deadline(dut.target.limits.tdr_s))

    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    data = coredump.read(PATIENCE_S)
    if not data and not any(event.step == "reset-begin" for event in dut.gpu_events(window)):
        pytest.skip("the hang was recovered without a reset, and without a dump")
    assert data, f"no {coredump.name} within {PATIENCE_S:g} s of the reset"
    dut.keep(window, coredump.name.replace(" ", "-"), data)
    coredump.discard()
    assert not coredump.read(0.0), f"the {coredump.name} is still there after it was freed"
    problems = dut.gpu.coredump_problems(data)
    assert not problems, f"the {coredump.name} of {len(data)} bytes {'; it '.join(problems)}"
