"""Tests for a target without a GPU; run by test_session*.py in a session of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.errors import TargetError
from harness.live.dut import Dut


def test_agent_is_killed(dut: Dut) -> None:
    """The lab's trouble."""
    dut.call("run", argv=["kill", "-KILL", str(dut.facts["pid"])])


def test_quiet(dut: Dut) -> None:
    """Nothing happens; on a kernel without lockdep that proves little."""
    assert dut.health()["debug_locks"] is None


def test_body_fails(dut: Dut) -> None:
    """An ordinary failed assertion."""
    assert dut.boot_id == "another", "as planned"


def test_fails_by_word(dut: Dut) -> None:
    """pytest.fail() is a failure like any other."""
    pytest.fail("by word")


@pytest.mark.xfail(reason="known", raises=AssertionError)
def test_xfails(dut: Dut) -> None:
    """An expected failure."""
    raise AssertionError("expected")


@pytest.fixture
def broken(dut: Dut) -> None:
    """Fails after the window is open."""
    raise TargetError("a fixture broke", where=dut.target.name, cure="mend it")


def test_with_a_broken_fixture(broken: None) -> None:
    """Its body never runs, but its window is closed."""


@pytest.mark.destructive
def test_hangs(dut: Dut) -> None:
    """Must never run where nobody opted in."""
    raise AssertionError("it ran")


def test_no_gpu(dut: Dut) -> None:
    """Asks for a card where there is none."""
    assert dut.card


def test_waits_to_be_killed(dut: Dut) -> None:
    """Says that it runs, and runs on while nobody takes the flag away."""
    flag = Path(os.environ["VICTIM_FLAG"])
    flag.touch()
    end = time.monotonic() + 60
    while flag.exists() and time.monotonic() < end:
        time.sleep(0.05)


def test_zz_after_the_lock_was_lost(dut: Dut) -> None:
    """Must not run once somebody else has the target."""
    raise AssertionError("it ran")
