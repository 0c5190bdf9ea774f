"""Tests for targets that several dispatchers share; run by test_labgrid_night.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.live.dut import Dut


def test_a_first(dut: Dut) -> None:
    """Nothing happens."""
    assert dut.boot_id


def test_b_waits(dut: Dut) -> None:
    """Says that it runs, and runs on while nobody takes the flag away."""
    flag = Path(os.environ["VICTIM_FLAG"])
    flag.write_text(dut.target.name)
    end = time.monotonic() + 1800
    while flag.exists() and time.monotonic() < end:
        time.sleep(0.05)


def test_c_last(dut: Dut) -> None:
    """Comes after whatever happened meanwhile."""
    assert dut.boot_id
