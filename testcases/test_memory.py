"""Does a reset keep memory for itself?"""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import pairwise

import pytest

from harness.deadline import Deadline
from harness.dut import Dut
from harness.evidence.rundir import Window

# What is allocated for good at the first resets is no leak.
WARM_UP = 5
RESETS = 10
# KiB a reset.  Pages on the CPUs' own free lists and half empty slabs, which nothing tells from
# memory in use, stay far below that times RESETS.
SLACK = 384


def held(dut: Dut) -> int:
    """KiB that neither are free nor belong to processes or to caches that can be dropped.

    Shared memory counts, since GEM objects may be made of it (Documentation/filesystems/proc.rst).
    """
    dut.call(
        "write",
        path="/proc/sys/vm/drop_caches",
        data=b64encode(b"3\n").decode(),
        seconds=dut.target.limits.command_s,
    )
    text = b64decode(dut.call("read", path="/proc/meminfo")["data"]).decode()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    ours = kib["MemFree"] + kib["AnonPages"] + kib["SReclaimable"]
    caches = kib["Buffers"] + kib["Cached"] + kib["SwapCached"] - kib["Shmem"]
    return kib["MemTotal"] - ours - caches


def reset(dut: Dut, times: int) -> None:
    for _ in range(times):
        dut.reset_gpu(Deadline(dut.target.limits.tdr_s))


@pytest.mark.destructive
@pytest.mark.without_lockdep
def test_resets_leak_no_memory(dut: Dut, window: Window) -> None:
    """Twice as many resets later the kernel does not hold more memory, and more again: what
    grows once is no leak, what grows with each reset is.

    Source: drivers/gpu/drm/amd/amdgpu/amdgpu_device.c amdgpu_device_gpu_recover(),
    drivers/gpu/drm/i915/gt/intel_reset.c intel_gt_reset().
    Runs on: sim-navi, sim-gen3.
    """
    if dut.gpu.manual_reset(dut.card) is None:
        pytest.skip("this driver has no manual reset")
    client = dut.client()
    if reason := dut.refusal(client):
        pytest.skip(reason)
    reset(dut, WARM_UP)
    levels = [held(dut)]
    for _ in range(2):
        reset(dut, RESETS)
        levels.append(held(dut))

    patience = Deadline(dut.target.limits.tdr_s)
    done = sum(event.step == "reset-done" for event in dut.recovered(window, patience))
    assert done >= WARM_UP + 2 * RESETS, f"only {done} completed resets in the log"
    grown = [(b - a) / RESETS for a, b in pairwise(levels)]
    assert min(grown) < SLACK, f"each reset keeps about {min(grown):.0f} KiB of memory: {levels}"
