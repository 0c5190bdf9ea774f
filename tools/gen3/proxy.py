"""QEMU's x-pci-proxy-dev protocol: config space and BAR accesses of a guest, served.

A stream socket; the guest's processor stands still until each access is answered.
Nothing is guessed: a message that this module does not know ends the model.
"""

# Little endian, as x86 lays it out (QEMU 7.2, include/hw/remote/mpqemu-link.h): a header
# of command and payload size, then the payload; fds come beside it by SCM_RIGHTS.

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from tools.gen3.line import Line
from tools.gen3.memory import Memory, Section

__all__ = ["Device", "Message", "ProtocolError", "Proxy", "Stream"]

SYNC_SYSMEM, RET, CFG_WRITE, CFG_READ, BAR_WRITE, BAR_READ, SET_IRQFD, DEVICE_RESET = range(8)

_HEADER = struct.Struct("<i4xQ")
_REPLY = struct.Struct("<i4xQQ")
_CONFIG = struct.Struct("<IIi")
_ACCESS = struct.Struct("<QQI?3x")
_WHOLE = struct.Struct("<i4xQ24s")
# Eight places each for guest addresses, sizes and offsets, whatever number is used.
_PLACES = 8
_SYSMEM = struct.Struct("<24Q")
_LARGEST = _SYSMEM.size
_RIGHTS = socket.CMSG_SPACE(_PLACES * struct.calcsize("i"))
_MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: 0xFFFFFFFFFFFFFFFF}
# Of the configuration header: command, the first BAR, how many there are (PCI 3.0, 6.1).
_COMMAND = 0x04
_BARS = range(0x10, 0x28, 4)


class ProtocolError(Exception):
    """QEMU said what this protocol does not have."""


class Device(Protocol):
    """What is served: a PCI function that owns its configuration space."""

    def config_read(self, offset: int, size: int) -> int:
        """1, 2 or 4 bytes of configuration space."""

    def config_write(self, offset: int, size: int, value: int) -> None:
        """As config_read."""

    def read(self, bar: int, offset: int, size: int) -> int:
        """1, 2, 4 or 8 bytes at `offset` of a BAR."""

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """As read."""


D = TypeVar("D", bound=Device)


class Message(NamedTuple):
    """One message; whoever takes it owns its fds."""

    command: int
    payload: bytes
    fds: tuple[int, ...]


class Stream:
    """The messages of a stream socket, each with the fds that came with it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._bytes = b""
        # fds and the place in _bytes of the last byte they came with.
        self._fds: list[tuple[int, tuple[int, ...]]] = []

    def receive(self) -> list[Message]:
        """Read once, and return what is complete.

        Raises EOFError at the end between two messages, ProtocolError at one within a
        message or for sizes that cannot be.
        """
        try:
            data, beside, flags, _ = self.sock.recvmsg(4096, _RIGHTS)
        except ConnectionError:  # it went without reading our last answer
            data, beside, flags = b"", [], 0
        if not (self._bytes or beside) and len(data) == _WHOLE.size:
            # An access, nearly always: QEMU says no more before it has its answer.
            command, size, payload = _WHOLE.unpack(data)
            if size == _ACCESS.size:
                return [Message(command, payload, ())]
        if not data:
            if self._bytes:
                raise ProtocolError(f"the connection ended within a message: {self._bytes!r}")
            raise EOFError("QEMU closed the connection")
        self._bytes += data
        if beside:
            self._fds.append((len(self._bytes), _fds_in(beside)))
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {_PLACES} fds with one message")
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        held = self._bytes
        if len(held) < _HEADER.size:
            return None
        command, size = _HEADER.unpack_from(held)
        if size > _LARGEST:
            raise ProtocolError(f"command {command} with {size} bytes: {held[:64]!r}")
        end = _HEADER.size + size
        if len(held) < end:
            return None
        self._bytes = held[end:]
        fds: tuple[int, ...] = ()
        if self._fds:
            # The kernel never reads on over fds: they belong to the message that has
            # the last byte of their read.
            fds = tuple(fd for at, some in self._fds if at <= end for fd in some)
            self._fds = [(at - end, some) for at, some in self._fds if at > end]
        return Message(command, held[_HEADER.size : end], fds)


class Proxy(Generic[D]):
    """Serves one device to one QEMU."""

    def __init__(
        self, sock: socket.socket, memory: Memory, line: Line, make: Callable[[], D]
    ) -> None:
        """`make` makes the device as it is after power-on; again for each reset of the machine."""
        self.device = make()
        self._make = make
        self._stream = Stream(sock)
        self._memory = memory
        self._line = line
        self._sizes = _sizes(self.device)
        # First address, end, BAR; of memory and of I/O space.
        self._memory_map: list[tuple[int, int, int]] = []
        self._io_map: list[tuple[int, int, int]] = []

    def fileno(self) -> int:
        """What to poll for input."""
        return self._stream.sock.fileno()

    def ready(self) -> None:
        """Serve what has come.

        Raises EOFError when QEMU is gone, ProtocolError for what is none of its protocol.
        """
        for message in self._stream.receive():
            self._serve(message)

    def _serve(self, message: Message) -> None:
        command, payload, fds = message
        if command in (BAR_READ, BAR_WRITE):
            _expect(message, _ACCESS.size)
            self._access(command, payload)
        elif command in (CFG_READ, CFG_WRITE):
            _expect(message, _CONFIG.size)
            self._config(command, payload)
        elif command == SYNC_SYSMEM:
            self._sync(message)
        elif command == SET_IRQFD:
            _expect(message, 0, 2)
            self._line.attach(*fds)
        elif command == DEVICE_RESET:
            _expect(message, 0)
            self._line.set(False)
            self.device = self._make()
            self._look_up()
            self._reply(0)
        else:
            _close(fds)
            raise ProtocolError(f"unknown command {command} with {len(payload)} bytes")

    def _access(self, command: int, payload: bytes) -> None:
        address, value, size, memory = _ACCESS.unpack(payload)
        if size not in _MASKS:
            raise ProtocolError(f"an access of {size} bytes at {address:#x}")
        found = self._find(address, memory)
        if found is None:
            # A BAR that was moved while the access was on its way; as on the bus.
            self._reply(_MASKS[size])
            return
        bar, offset = found
        # Here a vCPU waits for us and QEMU's main loop does not.
        self._line.patient = True
        if command == BAR_READ:
            value = self.device.read(bar, offset, size)
        else:
            self.device.write(bar, offset, size, value & _MASKS[size])
            value = 0
        self._line.patient = False
        self._reply(value)

    def _find(self, address: int, memory: bool) -> tuple[int, int] | None:
        """BAR and offset."""
        for first, end, bar in self._memory_map if memory else self._io_map:
            if first <= address < end:
                return bar, address - first
        return None

    def _config(self, command: int, payload: bytes) -> None:
        offset, value, size = _CONFIG.unpack(payload)
        if size not in (1, 2, 4):
            raise ProtocolError(f"a config access of {size} bytes at {offset:#x}")
        if command == CFG_READ:
            self._reply(self.device.config_read(offset, size))
            return
        self.device.config_write(offset, size, value & _MASKS[size])
        self._look_up()
        self._reply(0)

    def _sync(self, message: Message) -> None:
        _expect(message, _SYSMEM.size, len(message.fds))
        places = _SYSMEM.unpack(message.payload)
        guests, sizes, offsets = places[:8], places[8:16], places[16:]
        try:
            self._memory.replace(map(Section, message.fds, sizes, offsets, guests))
        finally:
            _close(message.fds)

    def _look_up(self) -> None:
        """Where the BARs are now."""
        self._memory_map, self._io_map = [], []
        command = self.device.config_read(_COMMAND, 2)
        for bar, (offset, size) in enumerate(zip(_BARS, self._sizes, strict=True)):
            value = self.device.config_read(offset, 4)
            io = value & 1
            if size and command & (1 if io else 2):
                first = value & (~0x3 if io else ~0xF)
                (self._io_map if io else self._memory_map).append((first, first + size, bar))

    def _reply(self, value: int) -> None:
        try:
            self._stream.sock.sendall(_REPLY.pack(RET, 8, value))
        except ConnectionError as error:
            raise EOFError("QEMU went before its answer came") from error


def _sizes(device: Device) -> list[int]:
    """Of each BAR, asked for as a bus does: what cannot be set to one is below the size."""
    sizes = []
    for offset in _BARS:
        before = device.config_read(offset, 4)
        device.config_write(offset, 4, 0xFFFFFFFF)
        mask = device.config_read(offset, 4)
        device.config_write(offset, 4, before)
        mask &= ~0x3 if mask & 1 else ~0xF
        sizes.append(-mask & 0xFFFFFFFF)
    return sizes


def _expect(message: Message, size: int, fds: int = 0) -> None:
    if (len(message.payload), len(message.fds)) != (size, fds):
        _close(message.fds)
        raise ProtocolError(
            f"command {message.command} with {len(message.payload)} bytes and"
            f" {len(message.fds)} fds; {size} and {fds} are right"
        )


def _fds_in(beside: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return tuple(fds)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
