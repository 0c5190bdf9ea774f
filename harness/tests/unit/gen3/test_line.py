"""The interrupt line: what qtest and KVM's eventfds are told, and when it waits."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tools.gen3.line import IrqfdLine, QtestLine

UP = b"set_irq_in /machine/q35/ioapic unnamed-gpio-in 22 1\n"
DOWN = b"set_irq_in /machine/q35/ioapic unnamed-gpio-in 22 0\n"


class Rig:
    """QEMU's end of a qtest socket, and the line at the other."""

    def __init__(self) -> None:
        self.sock, models = socket.socketpair()
        self.sock.settimeout(30)
        self.line = QtestLine(models.detach())


@pytest.fixture
def qtest() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.sock.close()


def test_a_level_is_told_once(qtest: Rig) -> None:
    line = qtest.line
    line.set(False)
    line.set(True)
    line.set(True)
    line.set(False)
    line.set(False)
    assert qtest.sock.recv(4096) == UP + DOWN


def test_raising_never_waits(qtest: Rig) -> None:
    line = qtest.line
    line.patient = True
    line.set(True)  # nobody answers
    assert qtest.sock.recv(4096) == UP


def test_lowering_waits_until_qemu_has_done_it(qtest: Rig) -> None:
    line = qtest.line
    line.set(True)
    line.patient = True
    lowered = threading.Event()

    def lower() -> None:
        line.set(False)
        lowered.set()

    thread = threading.Thread(target=lower)
    thread.start()
    said = b""
    while said != UP + DOWN:
        said += qtest.sock.recv(4096)
    qtest.sock.sendall(b"OK\n")  # of the raise only
    assert not lowered.wait(0.05)
    qtest.sock.sendall(b"O")
    qtest.sock.sendall(b"K\n")
    assert lowered.wait(30)
    thread.join()


def test_a_qemu_that_cannot_answer_is_not_waited_for_for_ever(
    qtest: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    line = qtest.line
    line.patient = True
    line.set(True)
    line.set(False)
    assert "qtest does not answer" in capsys.readouterr().err
    qtest.sock.sendall(b"OK\nOK\n")  # late; of both
    line.ready()
    line.set(True)
    qtest.sock.sendall(b"OK\n")
    line.set(False)
    assert "qtest does not answer" in capsys.readouterr().err, "the raise was answered, not this"


def test_a_refusal_and_an_end_are_told(qtest: Rig) -> None:
    line = qtest.line
    qtest.sock.sendall(b"FAIL Unknown device\n")
    with pytest.raises(ValueError, match="FAIL Unknown device"):
        line.ready()
    qtest.sock.close()
    with pytest.raises(EOFError, match="qtest"):
        line.ready()
    with pytest.raises(EOFError, match="qtest"):
        line.set(True)


def test_the_proxys_eventfds_are_closed_where_they_reach_nobody(qtest: Rig) -> None:
    intr, resample = os.eventfd(0), os.eventfd(0)
    qtest.line.attach(intr, resample)
    for fd in (intr, resample):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_irqfd_asserts_at_the_rise_and_again_at_each_eoi_while_up() -> None:
    intr, resample = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    line = IrqfdLine()
    line.set(True)  # before QEMU said where: kept
    line.attach(intr, resample)
    assert os.eventfd_read(intr) == 1
    line.set(True)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(intr)
    os.eventfd_write(resample, 1)
    line.ready()
    assert os.eventfd_read(intr) == 1
    line.set(False)
    os.eventfd_write(resample, 1)
    line.ready()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(intr)
    line.attach(os.eventfd(0), os.eventfd(0))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(intr)
