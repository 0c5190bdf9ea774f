"""simgpu bears any user: errors from its ioctls, never a word from the kernel.

LAB_FUZZ_SEED repeats a run as far as threads can be repeated.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import pytest

from harness import inventory
from harness.dut import Dut
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.link.machine import machine_for
from harness.tests.inner import targets_file
from harness.tests.vm.clients.run import run_client
from harness.verdict import judge

NAME = "sim-fuzz"
SECONDS = 120
# For processes that die in the middle of a reset, or several.
PATIENCE_S = SECONDS + 150.0


@pytest.mark.deep
def test_nonsense_is_refused_in_silence(tmp_path: Path) -> None:
    seed = int(os.environ.get("LAB_FUZZ_SEED", secrets.randbits(32)))
    target = inventory.load(targets_file(tmp_path / "targets.toml", NAME)).get(NAME)
    with Reservation.take(NAME, "test_simgpu_fuzz.py"):
        dut = Dut(target, RunDir.create(tmp_path / "runs", NAME), machine_for(target), print)
        try:
            dut.connect()
            window = dut.begin("fuzz", destructive=True)
            nodes = (dut.card["render"], dut.card["primary"])
            status, output = run_client(
                dut, "fuzz", str(seed), str(SECONDS), *nodes, seconds=PATIENCE_S
            )
            ok = [dut.client().canary(engine).ok for engine in dut.engines()]
            dut.end(window)
            window.body = "passed"
            judged = judge(dut.run, window)
        finally:
            dut.close()
    assert judged.outcome == "pass", f"seed {seed}: {judged}"
    assert status == 0, f"seed {seed}: {output}"
    assert all(ok), f"seed {seed}: engines after it: {ok}"
    # Otherwise it proved nothing: most of it must be refused, not all.
    tried, taken = (sum(map(int, column)) for column in zip(*counts(output), strict=True))
    assert tried > 10_000, f"seed {seed}: {tried} ioctls"
    assert 0.02 < taken / tried < 0.9, f"seed {seed}: {taken} of {tried} ioctls succeeded"


def counts(output: str) -> list[tuple[str, str]]:
    """(tried, succeeded) of each round that came to its end."""
    found = re.findall(r"^(\d+) (\d+)$", output, re.MULTILINE)
    assert found, output
    return found
