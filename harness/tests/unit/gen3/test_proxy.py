"""QEMU's proxy protocol, spoken over a socket pair without QEMU."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from harness.tests.unit.gen3.qemu_side import BARS, Device, Qemu, ram
from tools.gen3.memory import Memory
from tools.gen3.proxy import ProtocolError, Proxy


class Line:
    """Remembers what is done to it, and whether waiting was allowed."""

    def __init__(self) -> None:
        self.patient = False
        self.said: list[tuple[bool, bool]] = []
        self.attached: tuple[int, int] | None = None

    def set(self, level: bool) -> None:
        self.said.append((level, self.patient))

    def attach(self, intr: int, resample: int) -> None:
        self.attached = (intr, resample)

    def fileno(self) -> int:
        return -1

    def ready(self) -> None:
        raise AssertionError("it never has input")


class Rig:
    """One proxy between QEMU's end and a device."""

    def __init__(self) -> None:
        self.qemu, self.memory, self.line = Qemu(), Memory(), Line()
        self.made: list[Device] = []
        self.proxy = Proxy(self.qemu.models, self.memory, self.line, self._make)

    def _make(self) -> Device:
        self.made.append(Device())
        return self.made[-1]

    def map_bars(self) -> None:
        """As firmware does: addresses, then decoding on."""
        for bar, (address, _) in BARS.items():
            self.qemu.config(0x10 + 4 * bar, 4, address)
            self.proxy.ready()
            assert self.qemu.reply() == 0
        self.qemu.config(4, 2, 3)
        self.proxy.ready()
        assert self.qemu.reply() == 0

    def read(self, address: int, size: int, *, memory: bool = True) -> int:
        self.qemu.access(address, size, memory=memory)
        self.proxy.ready()
        return self.qemu.reply()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.qemu.sock.close()
    made.qemu.models.close()


def test_config_space_is_the_devices(rig: Rig) -> None:
    rig.qemu.config(0, 4)
    rig.proxy.ready()
    assert rig.qemu.reply() == 0x29C28086
    rig.qemu.config(0x3C, 1, 0x1FF)
    rig.proxy.ready()
    assert rig.qemu.reply() == 0
    assert rig.proxy.device.config[0x3C:0x3E] == b"\xff\0", "one byte was written, not two"


def test_sizing_a_bar_as_qemu_does_leaves_no_trace(rig: Rig) -> None:
    rig.map_bars()
    rig.qemu.config(0x10, 4, 0xFFFFFFFF)
    rig.proxy.ready()
    rig.qemu.reply()
    rig.qemu.config(0x10, 4)
    rig.proxy.ready()
    assert rig.qemu.reply() == 0xFFF80000
    rig.qemu.config(0x10, 4, BARS[0][0])
    rig.proxy.ready()
    rig.qemu.reply()
    rig.read(BARS[0][0] + 4, 4)
    assert rig.proxy.device.seen == [("read", 0, 4, 4)]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_access_is_by_bar_and_offset_whatever_its_address(rig: Rig, size: int) -> None:
    rig.map_bars()
    for bar, (address, mask) in BARS.items():
        memory, first = bar != 1, address & ~0xF
        last = (-mask & 0xFFFFFFFF) - size
        assert rig.read(first + last, size, memory=memory) == 0x1122334455667788 & (
            (1 << 8 * size) - 1
        )
        rig.qemu.access(first, size, 0xFEDCBA9876543210, memory=memory)
        rig.proxy.ready()
        assert rig.qemu.reply() == 0
        value = 0xFEDCBA9876543210 & ((1 << 8 * size) - 1)
        assert rig.proxy.device.seen[-2:] == [
            ("read", bar, last, size),
            ("write", bar, 0, size, value),
        ]


def test_what_no_bar_decodes_reads_as_ones_and_reaches_no_device(rig: Rig) -> None:
    assert rig.read(BARS[0][0], 4) == 0xFFFFFFFF, "decoding is off"
    rig.map_bars()
    assert rig.read(BARS[0][0] - 4, 4) == 0xFFFFFFFF
    assert rig.read(BARS[0][0] + 0x80000, 2) == 0xFFFF
    assert rig.read(BARS[0][0], 4, memory=False) == 0xFFFFFFFF, "memory is no I/O space"
    rig.qemu.access(BARS[3][0] + 0x40000, 4, 7)
    rig.proxy.ready()
    rig.qemu.reply()
    assert rig.proxy.device.seen == []


def test_a_bar_that_moves_is_followed(rig: Rig) -> None:
    rig.map_bars()
    rig.qemu.config(0x10, 4, 0xD0000000)
    rig.proxy.ready()
    rig.qemu.reply()
    rig.read(0xD0000010, 4)
    rig.read(BARS[0][0] + 0x10, 4)
    assert rig.proxy.device.seen == [("read", 0, 0x10, 4)]


def test_ram_comes_by_fd_and_is_the_guests_own(rig: Rig) -> None:
    fd = ram(b"A" * 4096 + b"B" * 4096)
    rig.qemu.sysmem((fd, 8192, 4096, 0x100000))
    rig.proxy.ready()
    assert rig.memory.read(0x100000, 2) == b"BB"
    rig.memory.write(0x100001, b"x")
    assert os.pread(fd, 3, 4096) == b"BxB"
    os.pwrite(fd, b"y", 4098)
    assert rig.memory.read(0x100000, 4) == b"BxyB"
    os.close(fd)


def test_a_new_memory_map_replaces_the_old_one_and_leaks_no_fd(rig: Rig) -> None:
    first, second = ram(b"one"), ram(b"two")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        rig.qemu.sysmem((first, 4096, 0, 0), (second, 8192, 0, 0x10000))
        rig.proxy.ready()
    rig.qemu.sysmem((second, 4096, 0, 0x8000))
    rig.proxy.ready()
    # A mapping of Python's holds an fd of its own.
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert rig.memory.read(0x8000, 3) == b"two"
    assert rig.memory.read(0, 3) == b"\xff\xff\xff"
    os.close(first)
    os.close(second)


def test_messages_that_come_together_keep_their_own_fds(rig: Rig) -> None:
    one, two = ram(b"one"), ram(b"two")
    intr, resample = os.eventfd(0), os.eventfd(0)
    rig.qemu.config(0, 2)
    rig.qemu.sysmem((one, 4096, 0, 0))
    rig.qemu.say(6, fds=(intr, resample))
    rig.qemu.sysmem((two, 4096, 0, 0))
    rig.qemu.config(2, 2)
    while rig.line.attached is None or rig.memory.read(0, 3) != b"two":
        rig.proxy.ready()
    attached = rig.line.attached
    os.eventfd_write(attached[0], 5)
    assert os.eventfd_read(intr) == 5
    os.eventfd_write(attached[1], 6)
    assert os.eventfd_read(resample) == 6
    for fd in (one, two, intr, resample, *attached):
        os.close(fd)


def test_a_message_may_come_in_pieces(rig: Rig) -> None:
    whole = struct.pack("<i4xQIIi", 3, 12, 0, 0, 4)
    for at in range(len(whole)):
        rig.qemu.sock.send(whole[at : at + 1])
        rig.proxy.ready()
    assert rig.qemu.reply() == 0x29C28086


def test_a_reset_of_the_machine_makes_a_new_device_and_lowers_the_line(rig: Rig) -> None:
    rig.map_bars()
    old = rig.proxy.device
    rig.qemu.say(7)
    rig.proxy.ready()
    assert rig.qemu.reply() == 0
    assert rig.proxy.device is rig.made[-1]
    assert rig.proxy.device is not old
    # QEMU's main loop waits for this very reply: the line must not wait for QEMU.
    assert rig.line.said == [(False, False)]
    assert rig.read(BARS[0][0], 4) == 0xFFFFFFFF, "its BARs are where power-on has them"


def test_the_line_may_wait_only_while_a_vcpu_waits_for_us(rig: Rig) -> None:
    rig.map_bars()
    device = rig.proxy.device
    device.write = lambda *access: rig.line.set(False)  # type: ignore[method-assign]
    rig.qemu.access(BARS[0][0] + 0x20A4, 4, 2)
    rig.proxy.ready()
    assert rig.line.said == [(False, True)]
    assert not rig.line.patient


def test_the_end_between_messages_is_the_end(rig: Rig) -> None:
    rig.qemu.sock.close()
    with pytest.raises(EOFError, match="QEMU closed"):
        rig.proxy.ready()


@pytest.mark.parametrize("cut", [1, 15, 16, 20])
def test_the_end_within_a_message_is_an_error(rig: Rig, cut: int) -> None:
    rig.qemu.sock.send(struct.pack("<i4xQIIi", 3, 12, 0, 0, 4)[:cut])
    rig.qemu.sock.close()
    rig.proxy.ready()
    with pytest.raises(ProtocolError, match="within a message"):
        rig.proxy.ready()


WRONG = {
    "an unknown command": (8, b"", "unknown command 8"),
    "a negative command": (-1, b"", "unknown command -1"),
    "a reply, which is ours to give": (1, bytes(8), "unknown command 1"),
    "an access without its value": (4, bytes(16), "command 4 with 16 bytes"),
    "config with too much": (3, bytes(24), "command 3 with 24 bytes"),
    "memory with too little": (0, bytes(8), "command 0 with 8 bytes"),
    "irqfds without fds": (6, b"", "command 6 with 0 bytes and 0 fds"),
    "a reset with words": (7, bytes(4), "command 7 with 4 bytes"),
    "an access of three bytes": (5, struct.pack("<QQI?3x", 0, 0, 3, True), "an access of 3 bytes"),
    "config of eight bytes": (3, struct.pack("<IIi", 0, 0, 8), "a config access of 8 bytes"),
    "config of minus one": (2, struct.pack("<IIi", 0, 0, -1), "a config access of -1 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_message_of_qemus_ends_the_model_by_name(rig: Rig, name: str) -> None:
    command, payload, words = WRONG[name]
    rig.qemu.say(command, payload)
    with pytest.raises(ProtocolError, match=words):
        rig.proxy.ready()


def test_a_size_that_cannot_be_is_refused_before_it_is_waited_for(rig: Rig) -> None:
    rig.qemu.say(5, b"", size=1 << 40)
    with pytest.raises(ProtocolError, match="command 5 with 1099511627776 bytes"):
        rig.proxy.ready()


def test_fds_of_a_message_that_has_none_are_closed(rig: Rig) -> None:
    reader, writer = os.pipe()
    rig.qemu.say(7, fds=(writer,))
    os.close(writer)
    with pytest.raises(ProtocolError, match="1 fds"):
        rig.proxy.ready()
    assert os.read(reader, 1) == b"", "somebody still holds the other end"
    os.close(reader)


def test_more_fds_than_the_protocol_has_are_refused(rig: Rig) -> None:
    fds = tuple(os.eventfd(0) for _ in range(9))
    rig.qemu.say(0, bytes(192), fds)
    with pytest.raises(ProtocolError, match="more than 8 fds"):
        rig.proxy.ready()
    for fd in fds:
        os.close(fd)


def test_any_bytes_end_in_a_reply_or_in_an_error_by_name() -> None:
    import random

    chance = random.Random(6)
    for _ in range(300):
        rig = Rig()
        rig.qemu.sock.send(
            struct.pack("<i4xQ", chance.randrange(-2, 10), chance.choice((0, 8, 12, 24, 192, 200)))
            + chance.randbytes(chance.randrange(200))
        )
        rig.qemu.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ProtocolError, EOFError):
            while True:
                rig.proxy.ready()
        assert rig.line.attached is None
        rig.qemu.sock.close()
        rig.qemu.models.close()
