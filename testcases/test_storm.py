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
from harness.fence.fences import Role, State
from harness.fence.ledger import Ledger
from harness.gpu.base import Engine

ENDED = {State.IN_TIME, State.LATE, State.IN_RECOVERY, State.FORCED}


def hang_until(dut: Dut, client: Client, engine: Engine, end: Deadline) -> int:
    """Hang after hang, each in a context of its own, until `end`; how many."""
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
    and each of those ended."""
    engines = dut.engines()
    hung, *others = engines
    guilty, *clients = [dut.client() for _ in range(1 + len(engines[:2]))]
    if reason := dut.gpu.refusal(guilty.device()):
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
    for storm in storms:
        agree(storm, ledger)


def agree(storm: Storm, ledger: Ledger) -> None:
    """The submitter's count is the kernel's, fence context by fence context."""
    kernel: Counter[int] = Counter()
    f = ledger.fences
    for row in (f.has(Role.FINISHED)).nonzero()[0].tolist():
        assert f[row].state in ENDED, f[row]
        kernel[int(f.context[row])] += 1
    for context, _, submitted in storm.fences:
        if context is None:
            pytest.skip("the kernel does not name a job's fence: its sync file's name is cut")
        seen = kernel[context & 0xFFFFFFFF]
        assert seen == submitted, f"{submitted} jobs, but {seen} fences on context {context}"
