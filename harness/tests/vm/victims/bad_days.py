"""Tests that do to their target what a broken kernel, link or agent would; run by
test_bad_days.py one floor up, in a session of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.live.dut import Dut


def test_a_agent_is_killed(dut: Dut) -> None:
    """The agent dies in the middle of a test: the lab's trouble, not the kernel's."""
    dut.call("run", argv=["kill", "-KILL", str(dut.facts["pid"])])


def test_b_after_the_agent(dut: Dut) -> None:
    """The next test has an agent again, on the same boot."""
    assert dut.health()["debug_locks"] == 1


def test_c_machine_panics(dut: Dut) -> None:
    """The kernel dies: this test is the guilty one."""
    with contextlib.suppress(HarnessError):
        dut.agent.call("write", Deadline(20), path="/proc/sysrq-trigger", data="Yw==", seconds=10)
    dut.health()


def test_d_after_the_panic(dut: Dut) -> None:
    """The machine was brought back."""
    assert dut.health()["debug_locks"] == 1


def test_e_forgotten_hang(dut: Dut) -> None:
    """A test that leaves a hang behind: released with the test, so no reset follows it."""
    client = dut.client()
    client.hang(dut.engines()[0])


def test_f_unasked_reset(dut: Dut) -> None:
    """A reset in a test that is not marked destructive."""
    dut.reset_gpu(Deadline(60))


def test_h_body_fails(dut: Dut) -> None:
    """An ordinary failed assertion."""
    assert dut.boot_id == "another", "as planned"


@pytest.mark.xfail(reason="known")
def test_i_expected_to_fail(dut: Dut) -> None:
    """An expected failure."""
    assert dut.boot_id == "another"


def test_j_skips_itself(dut: Dut) -> None:
    """A skip from inside the body."""
    pytest.skip("nothing to see")


@pytest.mark.xfail(reason="known")
def test_k_finding_in_an_expected_failure(dut: Dut) -> None:
    """What the kernel did is not excused by what the test expected of itself."""
    dut.reset_gpu(Deadline(60))
    raise AssertionError("expected")


@pytest.fixture
def untidy(dut: Dut) -> Iterator[None]:
    """Resets the GPU when its test is over."""
    yield
    dut.reset_gpu(Deadline(60))


def test_l_teardown_misbehaves(untidy: None) -> None:
    """What the teardown causes is this test's doing, not the next one's."""


def test_m_after_the_untidy_one(dut: Dut) -> None:
    """Not blamed."""
    assert dut.health()["debug_locks"] == 1
