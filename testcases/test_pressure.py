"""Recovery while memory is short: it may not wait for memory, since that may wait for its fences.

Reclaim calls shrinkers and MMU notifiers, which may wait for a job to end (include/linux/
dma-fence.h and dma-buf.rst, "DMA Fence Cross-Driver Contract").
"""

from __future__ import annotations

from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.dut import Dut
from harness.gpu.base import Knob

# Bytes that are left free, and that are then read through the page cache, round and round.
FREE, READ = 64 << 20, 256 << 20
# What it takes to fill a machine's memory, in seconds.
FILL_S = 300.0
DROP = Knob("/proc/sys/vm/drop_caches", "3")


@pytest.mark.destructive
def test_recovers_while_memory_is_reclaimed(dut: Dut) -> None:
    """A job hangs that writes memory of its process's own; nothing is free, somebody reads files
    all the while, and caches and the driver's own memory are dropped by hand."""
    guilty, reader, engine = dut.client(), dut.generic(), dut.engines()[0]
    if reason := dut.gpu.refusal(guilty.device()):
        pytest.skip(reason)
    dut.hasten(engine)
    free = reader.squeeze(FREE, Deadline(FILL_S))
    patience = Deadline(FILL_S + 2 * dut.target.limits.tdr_s)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.churn, READ, patience)
        try:
            job = guilty.hang(engine, own=True)
            for knob in filter(None, (DROP, dut.gpu.shrinker(dut.card))):
                data = b64encode(f"{knob.value}\n".encode()).decode()
                dut.call("write", path=knob.path, data=data, seconds=dut.target.limits.tdr_s)
            fence = guilty.wait(job, Deadline(dut.target.limits.tdr_s))
        finally:
            reader.settle()
    assert reading.result() > free, "so little was read that nothing was reclaimed"
    assert fence.signaled, f"the fence did not signal within {dut.target.limits.tdr_s:g} s"
    assert fence.error in dut.gpu.hang_errors(), f"the fence {fence}"
    with dut.client() as fresh:
        canary = fresh.canary(engine)
    assert canary.ok, f"a second client's job does not complete after recovery: {canary}"
