"""Tests that only look at their target: what is left is what the harness itself costs."""

from __future__ import annotations

import pytest

from harness.live.dut import Dut

__all__ = ["TESTS"]

TESTS = 10


@pytest.mark.parametrize("number", range(TESTS))
def test_looks(dut: Dut, number: int) -> None:
    """It answers, as one and the same boot."""
    assert dut.health()["boot_id"] == dut.boot_id
