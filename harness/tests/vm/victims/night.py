"""Tests of a night whose failures are planted: $NIGHT_PLANT holds TEST@TARGET, space between."""

from __future__ import annotations

import os

from harness.live.dut import Dut


def planted(dut: Dut, test: str) -> bool:
    """Whether this is to fail now; by then the target itself has answered."""
    assert dut.health()["debug_locks"] == 1
    return f"{test}@{dut.target.name}" in os.environ["NIGHT_PLANT"].split()


def test_known(dut: Dut) -> None:
    """Fails as an issue says."""
    assert not planted(dut, "known"), "as everybody knows"


def test_flaky(dut: Dut) -> None:
    """Now and then."""
    assert not planted(dut, "flaky"), "now and then"


def test_steady(dut: Dut) -> None:
    """Passes until somebody breaks it."""
    assert not planted(dut, "steady"), "it broke"
