"""A console over telnet (RFC 854), or a serial port over telnet (RFC 2217).

Takes the protocol out of the bytes and puts it in again; agrees to be transparent
(binary, character at a time), refuses all else that is offered.
"""

from __future__ import annotations

import socket
import struct
import threading
import time

__all__ = ["TelnetSource"]

# RFC 854, 856, 857, 858, 2217
_IAC, _DONT, _DO, _WONT, _WILL, _SB, _BREAK, _SE = 255, 254, 253, 252, 251, 250, 243, 240
_BINARY, _ECHO, _SGA, _COM_PORT = 0, 1, 3, 44
_SET_BAUDRATE, _SET_DATASIZE, _SET_PARITY, _SET_STOPSIZE, _SET_CONTROL = 1, 2, 3, 4, 5
_NO_PARITY, _ONE_STOP, _NO_FLOW, _BREAK_ON, _BREAK_OFF = 1, 1, 1, 5, 6
# Seconds; a receiver takes a line that is low for more than a frame for a BREAK.
_BREAK_S = 0.3
# What a subnegotiation may have; a server that never ends one shall not fill our memory.
_MOST_SB = 1 << 10

_OURS = {_BINARY, _SGA}
_THEIRS = {_BINARY, _SGA, _ECHO}


class TelnetSource:
    """A telnet connection; with `baud` it asks for RFC 2217 and sets the port: 8N1, no flow
    control."""

    def __init__(self, sock: socket.socket, baud: int | None = None) -> None:
        """The connected `sock` is ours from now on.  Raises OSError when its server hung up."""
        self._sock = sock
        self._baud = baud
        self._lock = threading.Lock()
        self._rest = b""
        self._ours: set[int] = set()
        self._theirs: set[int] = set()
        self._asked: set[tuple[int, int]] = set()
        self._after_cr = False
        try:
            for verb, option in (
                *((_WILL, option) for option in sorted(_OURS)),
                *((_DO, option) for option in (_BINARY, _SGA)),
                *(((_WILL, _COM_PORT),) if baud else ()),
            ):
                self._asked.add((verb, option))
                self._command(verb, option)
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self, limit: int) -> bytes | None:
        try:
            data = self._sock.recv(limit)
            if not data:
                return b""
            # Only protocol came: nothing for the reader, and not the end.
            return self._plain(self._rest + data) or None
        except OSError:  # also of an answer to what it asked
            return b""

    def write(self, data: bytes) -> None:
        data = data.replace(b"\xff", b"\xff\xff")
        if _BINARY not in self._ours:
            data = data.replace(b"\r", b"\r\0")  # RFC 854: a bare CR is followed by NUL
        self._send(data)

    def send_break(self) -> bool:
        """By the port itself where the server gives us that, else telnet's own BREAK."""
        if _COM_PORT not in self._ours:
            self._send(bytes((_IAC, _BREAK)))
            return True
        self._port(_SET_CONTROL, _BREAK_ON)
        time.sleep(_BREAK_S)
        self._port(_SET_CONTROL, _BREAK_OFF)
        return True

    def close(self) -> None:
        self._sock.close()

    def _send(self, data: bytes) -> None:
        with self._lock:
            self._sock.sendall(data)

    def _command(self, verb: int, option: int) -> None:
        self._send(bytes((_IAC, verb, option)))

    def _port(self, what: int, value: int, form: str = "B") -> None:
        body = struct.pack(f">{form}", value).replace(b"\xff", b"\xff\xff")
        self._send(bytes((_IAC, _SB, _COM_PORT, what)) + body + bytes((_IAC, _SE)))

    def _plain(self, data: bytes) -> bytes:
        """The console's bytes in `data`; what is cut off is kept for the next piece."""
        out = bytearray()
        at = 0
        while at < len(data):
            mark = data.find(_IAC, at)
            if mark < 0:
                out += self._text(data[at:])
                at = len(data)
                break
            out += self._text(data[at:mark])
            used = self._handle(data, mark, out)
            at = mark + used
            if not used:
                break
        self._rest = data[at:]
        return bytes(out)

    def _text(self, data: bytes) -> bytes:
        """Without the NUL that follows a bare CR where the server is not transparent."""
        if _BINARY in self._theirs or not data:
            return data
        if self._after_cr and data[:1] == b"\0":
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\0", b"\r")

    def _handle(self, data: bytes, at: int, out: bytearray) -> int:
        """Obey the command at `at`; how many bytes it has, 0 where it is cut off."""
        if at + 2 > len(data):
            return 0
        verb = data[at + 1]
        if verb == _IAC:
            out.append(_IAC)
            return 2
        if verb == _SB:
            end = data.find(_IAC, at + 2)
            while 0 <= end < len(data) - 1 and data[end + 1] != _SE:
                end = data.find(_IAC, end + 2)  # a doubled one is a byte of what it says
            if not 0 <= end < len(data) - 1:
                # What it says of the port is nothing to us.
                return 0 if len(data) - at < _MOST_SB else len(data) - at
            return end + 2 - at
        if verb not in (_WILL, _WONT, _DO, _DONT):
            return 2
        if at + 3 > len(data):
            return 0
        self._agree(verb, data[at + 2])
        return 3

    def _agree(self, verb: int, option: int) -> None:
        """Answer an offer or a wish; an answer to ours is not answered again (RFC 854)."""
        if verb in (_WILL, _WONT):
            state, wanted, yes, no = self._theirs, _THEIRS, _DO, _DONT
        else:
            state, wanted, yes, no = self._ours, _OURS, _WILL, _WONT
            if self._baud:
                wanted = wanted | {_COM_PORT}
        positive = verb in (_WILL, _DO)
        answered = (yes, option) in self._asked
        self._asked.discard((yes, option))
        if positive and option in wanted:
            if option in state:
                return
            state.add(option)
            if not answered:
                self._command(yes, option)
            if option == _COM_PORT:
                self._set_up()
        elif positive:
            self._command(no, option)
        elif option in state:
            state.discard(option)
            self._command(no, option)

    def _set_up(self) -> None:
        self._port(_SET_BAUDRATE, self._baud or 0, "I")
        for what, value in (
            (_SET_DATASIZE, 8),
            (_SET_PARITY, _NO_PARITY),
            (_SET_STOPSIZE, _ONE_STOP),
            (_SET_CONTROL, _NO_FLOW),
        ):
            self._port(what, value)
