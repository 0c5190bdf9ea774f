"""Tests of a night whose failures are planted: $NIGHT_PLANT holds TEST@TARGET, space between."""

from __future__ import annotations

import contextlib
import os
from base64 import b64encode

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.live.dut import Dut
from harness.tests.vm.faultplugin import switch

# Longest that a test waits for what it did to show, in seconds.
PATIENCE_S = 300.0


def planted(dut: Dut, test: str) -> bool:
    """Whether this is to fail now; by then the target itself has answered."""
    assert dut.health()["debug_locks"] == 1
    return f"{test}@{dut.target.name}" in os.environ["NIGHT_PLANT"].split()


def test_known(dut: Dut) -> None:
    """Fails as an issue says."""
    assert not planted(dut, "known"), "as everybody knows"


@pytest.mark.destructive
def test_survives(dut: Dut) -> None:
    """A machine may panic in it."""
    if not planted(dut, "survives"):
        return
    deadline = Deadline(PATIENCE_S)
    with contextlib.suppress(HarnessError):  # of a write that does not come back
        data = b64encode(b"c").decode()
        dut.agent.call("write", deadline, path="/proc/sysrq-trigger", data=data, seconds=PATIENCE_S)
    while dut.agent.alive and deadline.pause(0.02):
        pass
    dut.health()  # raises what ended the link


def test_flaky(dut: Dut) -> None:
    """Now and then."""
    assert not planted(dut, "flaky"), "now and then"


@pytest.mark.destructive
def test_steady(dut: Dut) -> None:
    """Recovers from a hang until a change of the driver has it take dma_resv on the way."""
    if planted(dut, "steady"):
        switch(dut, "dma_resv")
    engine = dut.engines()[0]
    dut.pin(engine)
    client = dut.client()
    fence = client.wait(client.hang(engine), Deadline(dut.target.limits.tdr_s))
    assert fence.error in dut.gpu.hang_errors()
    assert dut.client().canary(engine).ok
