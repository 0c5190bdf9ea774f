"""Hang after hang on one boot; run by test_judgement.py in a session of its own."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.dut import Dut


@pytest.mark.destructive
@pytest.mark.parametrize("round_", range(50))
def test_storm(dut: Dut, pinned: Engine, round_: int) -> None:
    """One hang of many, with two jobs of its own queued behind it."""
    client = dut.client()
    jobs = [client.hang(pinned) for _ in range(3)]
    deadline = Deadline(4 * dut.target.limits.tdr_s)
    assert all(client.wait(job, deadline).signaled for job in jobs)
    with dut.client() as other:
        canary = other.canary(pinned)
        assert canary.ok, str(canary)
