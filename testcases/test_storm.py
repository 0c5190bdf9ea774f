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

from harness.client import Client, Storm
from harness.deadline import Deadline
from harness.dut import Dut
from harness.evidence.rundir import Window
from harness.fence.fences import State
from harness.fence.ledger import Ledger
from harness.gpu.base import Engine

ENDED = {State.IN_TIME, State.LATE, State.IN_RECOVERY, State.FORCED}


def hang_until(dut: Dut, client: Client, engine: Engine, end: Deadline) -> int:
    """Hang after hang, each in a context of its own, until `end`; how many."""
    dut.hasten(engine)
    hangs = 0
    while not end.expired():
        job = client.hang(engine, context=client.context())
        fence = client.wait(job, Deadline(dut.target.limits.tdr_s))
        assert fence.signaled, f"hang {hangs}: the fence did not signal"
        hangs += 1
    return hangs


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
    end = Deadline(storm_s)
    patience = Deadline(storm_s + 4 * dut.target.limits.tdr_s)
    with ThreadPoolExecutor(len(clients)) as pool:
        flowing = [
            pool.submit(client.storm, engine, 1 << 30, patience, seconds=storm_s)
            for client, engine in zip(clients, [hung, *others], strict=False)
        ]
        began = time.monotonic()
        hangs = hang_until(dut, guilty, hung, end)
        took = time.monotonic() - began
        storms = [storm.result() for storm in flowing]

    assert all(storm.submitted > 0 and storm.pending == 0 for storm in storms), storms
    ledger = fences()
    told = {
        "seconds": took,
        "hangs": hangs,
        "submitted": [storm.submitted for storm in storms],
        "errors": dict(sum((Counter(storm.errors) for storm in storms), Counter())),
        "counts": ledger.counts(),
    }
    dut.keep(window, "storm.json", json.dumps(told, indent=2).encode() + b"\n")
    for client, storm in zip(clients, storms, strict=True):
        agree(storm, ledger, client.pid)


def agree(storm: Storm, ledger: Ledger, pid: int) -> None:
    """The submitter's count is the kernel's, fence context by fence context, or as a whole where
    nobody can tell a submitter the context of its fences."""
    f = ledger.fences
    rows = (f.jobs() & (f.maker == pid)).nonzero()[0].tolist()
    assert all(f[row].state in ENDED for row in rows), "a job's fence has not ended"
    nameless = any(context is None for context, *_ in storm.fences)
    told: Counter[int] = Counter()
    for context, _, submitted in storm.fences:
        told[0 if nameless else (context or 0) & 0xFFFFFFFF] += submitted
    seen = Counter(0 if nameless else int(f.context[row]) for row in rows)
    assert told == seen, "jobs that were submitted, and fences that were seen, by their context"
