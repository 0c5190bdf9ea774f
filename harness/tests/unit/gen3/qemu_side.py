"""QEMU's end of the proxy protocol, and a device that only remembers: for tests without QEMU."""

# The message layouts are written down here a second time on purpose: they are QEMU's.

from __future__ import annotations

import os
import socket
import struct
import tempfile
from array import array

__all__ = ["BARS", "Device", "Qemu"]

# BAR number: first address that a test gives it, mask of the bits that can be written.
BARS = {
    0: (0xFEB0_0000, 0xFFF8_0000),
    1: (0xC001, 0xFFFF_FFF0),
    2: (0xE000_0008, 0xF000_0000),
    3: (0xFEA0_0000, 0xFFFC_0000),
}


class Device:
    """Config space with four BARs of gen3's sizes; accesses are kept, reads count up."""

    def __init__(self) -> None:
        self.config = bytearray(256)
        self.config[0:4] = bytes.fromhex("8680c229")
        self.config[0x14], self.config[0x18] = 1, 8
        self.seen: list[tuple[object, ...]] = []
        self.answer = 0x1122334455667788
        self.when: int | None = None
        self.ticks: list[int] = []

    def config_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        if offset in range(0x10, 0x28, 4):
            _, mask = BARS.get((offset - 0x10) // 4, (0, 0))
            value = value & mask | self.config_read(offset, 4) & ~mask & 0xF
        self.config[offset : offset + size] = value.to_bytes(size, "little")

    def read(self, bar: int, offset: int, size: int) -> int:
        self.seen.append(("read", bar, offset, size))
        return self.answer & (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", bar, offset, size, value))

    def due(self) -> int | None:
        return self.when

    def tick(self, now: int) -> None:
        self.ticks.append(now)
        self.when = None


class Qemu:
    """Says what QEMU says; the replies are read as QEMU reads them."""

    def __init__(self) -> None:
        self.sock, self.models = socket.socketpair()
        self.sock.settimeout(30)

    def say(
        self, command: int, payload: bytes = b"", fds: tuple[int, ...] = (), size: int | None = None
    ) -> None:
        said = struct.pack("<i4xQ", command, len(payload) if size is None else size) + payload
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        self.sock.sendmsg([said], beside)

    def reply(self) -> int:
        """The value of the one reply there must be."""
        data = self.sock.recv(4096)
        command, size, value = struct.unpack("<i4xQQ", data)
        assert (command, size) == (1, 8)
        return int(value)

    def config(self, offset: int, size: int, value: int | None = None) -> None:
        self.say(3 if value is None else 2, struct.pack("<IIi", offset, value or 0, size))

    def access(
        self, address: int, size: int, value: int | None = None, *, memory: bool = True
    ) -> None:
        payload = struct.pack("<QQI?3x", address, value or 0, size, memory)
        self.say(5 if value is None else 4, payload)

    def sysmem(self, *sections: tuple[int, int, int, int]) -> None:
        """Each: fd, size, offset, guest address."""
        places: list[int] = []
        for column in (3, 1, 2):
            used = [section[column] for section in sections]
            places += used + [0] * (8 - len(used))
        self.say(0, struct.pack("<24Q", *places), tuple(section[0] for section in sections))


def ram(content: bytes, pages: int = 4) -> int:
    """An fd of that many pages of 4096 bytes, which begin with `content`."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.truncate(4096 * pages)
        file.flush()
        return os.dup(file.fileno())
