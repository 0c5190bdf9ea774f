"""Many jobs beside hang after hang: is every one of their fences accounted for?

The submitters count their jobs, the kernel's trace its fences; both must agree,
whatever recovery did in between.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.fence.fences import State
from harness.fence.ledger import Ledger
from harness.live.client import Storm
from harness.live.dut import Dut

ENDED = {State.IN_TIME, State.LATE, State.IN_RECOVERY, State.FORCED}


@pytest.mark.destructive
def test_every_job_is_accounted_for(
    dut: Dut, window: Window, fences: Callable[[], Ledger], storm_s: float
) -> None:
    """Jobs flow on the hung engine and on another; each has its fences in the kernel's account,
    and each of those ended.

    Source: drivers/dma-buf/dma-fence.c (DOC: fence cross-driver contract),
    drivers/dma-buf/dma-fence.c dma_fence_signal().
    Runs on: sim-navi, sim-gen3.
    """
    engines = dut.engines()
    hung, *others = engines
    guilty, *clients = [dut.client() for _ in range(1 + len(engines[:2]))]
    if reason := dut.refusal(guilty):
        pytest.skip(reason)
    dut.hasten(hung)
    end = Deadline(storm_s)
    patience = Deadline(storm_s + 4 * dut.target.limits.tdr_s)
    with ThreadPoolExecutor(len(clients)) as pool:
        flowing = [
            pool.submit(client.storm, engine, 1 << 30, patience, seconds=storm_s)
            for client, engine in zip(clients, [hung, *others], strict=False)
        ]
        began = time.monotonic()
        hangs = guilty.hang_until(hung, end, dut.target.limits.tdr_s)
        took = time.monotonic() - began
        storms = [storm.result() for storm in flowing]

    assert hangs[-1].signaled, f"hang {len(hangs)}: the fence did not signal"
    assert all(storm.submitted > 0 and storm.pending == 0 for storm in storms), storms
    ledger = fences()
    errors = dict(sum((Counter(storm.errors) for storm in storms), Counter()))
    jobs = [storm.submitted for storm in storms]
    told = {"seconds": took, "hangs": len(hangs), "submitted": jobs, "errors": errors}
    told["counts"] = ledger.counts()
    dut.keep(window, "storm.json", json.dumps(told, indent=2).encode() + b"\n")
    for client, storm in zip(clients, storms, strict=True):
        agree(storm, ledger, client.pid)


def agree(storm: Storm, ledger: Ledger, pid: int) -> None:
    """The submitter's count is the kernel's, fence context by fence context, or as a whole where
    nobody can tell a submitter the context of its fences."""
    f = ledger.fences
    rows = (f.jobs() & (f.maker == pid)).nonzero()[0].tolist()
    assert all(f[row].state in ENDED for row in rows), "a job's fence has not ended"
    told = storm.by_context()
    seen = Counter(0 if 0 in told else int(f.context[row]) for row in rows)
    assert told == seen, "jobs that were submitted, and fences that were seen, by their context"
