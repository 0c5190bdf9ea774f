"""Tests under which the chip's model is killed; run by test_gen3_target.py one floor up, in a
session of their own."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError
from harness.link.gen3 import CONTROL_SOCKET, ask
from harness.link.machine import state_dir
from harness.link.sockname import short
from harness.live.dut import Dut


def model(dut: Dut) -> int:
    """The pid of the model: of who listens at its control socket (SO_PEERCRED, unix(7))."""
    with socket.socket(socket.AF_UNIX) as sock:
        with short(state_dir(dut.target) / CONTROL_SOCKET) as name:
            sock.connect(name)
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])


def gone(dut: Dut) -> None:
    """Until the machine is gone with it."""
    deadline = Deadline(60)
    while True:
        assert not deadline.expired(), "the machine outlived its model"
        try:
            dut.health()
        except HarnessError:
            return


@pytest.mark.destructive
def test_a_killed_while_it_hangs(dut: Dut) -> None:
    """A job hangs; then the GPU goes: nothing that the kernel says of it counts."""
    dut.client().hang(dut.engines()[0])
    os.kill(model(dut), signal.SIGKILL)
    gone(dut)


def test_b_the_next_has_a_new_boot_and_a_new_model(dut: Dut) -> None:
    assert dut.health()["debug_locks"] == 1
    assert ask(state_dir(dut.target) / CONTROL_SOCKET, "state")["state"]["resets"] == 0


def test_c_killed_in_a_body_that_fails(dut: Dut) -> None:
    """The body's own complaint is a consequence."""
    os.kill(model(dut), signal.SIGKILL)
    gone(dut)
    raise AssertionError("the GPU does not answer")


@pytest.fixture
def killed_afterwards(dut: Dut) -> Iterator[None]:
    yield
    os.kill(model(dut), signal.SIGKILL)
    gone(dut)


def test_d_passes_before_the_kill(dut: Dut, killed_afterwards: None) -> None:
    assert dut.trouble() == ""


def test_e_after_a_kill_between_two_tests(dut: Dut) -> None:
    assert dut.health()["debug_locks"] == 1
    with pytest.raises(LabError, match="no fault 'beer'"):
        ask(state_dir(dut.target) / CONTROL_SOCKET, "set", fault="beer", value="cold")


def test_f_killed_at_the_very_end_of_a_body(dut: Dut) -> None:
    """Only the model is waited for: the machine may stand for a moment still."""
    pidfd = os.pidfd_open(model(dut))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)


def test_g_the_next_has_a_new_boot_again(dut: Dut) -> None:
    assert dut.health()["debug_locks"] == 1
