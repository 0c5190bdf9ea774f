"""A client that does nothing wrong: the baseline without which no hang means anything."""

from __future__ import annotations

from harness.gpu.base import Engine
from harness.live.dut import Dut


def test_canary(dut: Dut, engine: Engine) -> None:
    """A small job on each engine completes without an error and writes what it should.

    Source: drivers/dma-buf/dma-fence.c (DOC: fence cross-driver contract).
    Runs on: sim-navi, sim-gen3.
    """
    with dut.client() as client:
        canary = client.canary(engine)
    assert canary.ok, str(canary)
