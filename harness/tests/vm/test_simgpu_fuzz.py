"""simgpu bears any user: errors from its ioctls, never a word from the kernel.

LAB_FUZZ_SEED repeats a run as far as threads can be repeated.
"""

from __future__ import annotations

import os
import re
import secrets

import pytest

from harness.live.dut import Dut
from harness.tests.vm.clients.run import run_client

SECONDS = 120
# For processes that die in the middle of a reset, or several.
PATIENCE_S = SECONDS + 150.0


@pytest.mark.deep
def test_nonsense_is_refused_in_silence(sim: Dut) -> None:
    seed = int(os.environ.get("LAB_FUZZ_SEED", secrets.randbits(32)))
    print(f"seed {seed}")  # shown with whatever fails, the kernel's words included
    nodes = (sim.card["render"], sim.card["primary"])
    status, output = run_client(sim, "fuzz", str(seed), str(SECONDS), *nodes, seconds=PATIENCE_S)
    assert status == 0, output
    with sim.client() as client:
        dead = [engine.name for engine in sim.engines() if not client.canary(engine).ok]
    assert not dead, f"engines that do not work after it: {dead}"
    # Otherwise it proved nothing: most of it must be refused, not all.
    tried, taken = (sum(map(int, column)) for column in zip(*counts(output), strict=True))
    assert tried > 1000, f"only {tried} ioctls"
    assert 0.02 < taken / tried < 0.9, f"{taken} of {tried} ioctls succeeded"


def counts(output: str) -> list[tuple[str, str]]:
    """(tried, succeeded) of each round that came to its end."""
    found = re.findall(r"^(\d+) (\d+)$", output, re.MULTILINE)
    assert found, output
    return found
