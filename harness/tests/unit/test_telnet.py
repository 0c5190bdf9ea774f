"""Telnet and RFC 2217, byte by byte: the server's side is a socket of the test's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from harness.link.telnet import TelnetSource

IAC, DONT, DO, WONT, WILL, SB, BREAK, SE = 255, 254, 253, 252, 251, 250, 243, 240
BINARY, ECHO, COM_PORT, WINDOW_SIZE = 0, 1, 44, 31
BAUD = 115200


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def _said(theirs: socket.socket) -> bytes:
    """What has been sent there so far; our side writes before it returns."""
    theirs.setblocking(False)
    try:
        return theirs.recv(1 << 16)
    except BlockingIOError:
        return b""
    finally:
        theirs.settimeout(60)


def _read(source: TelnetSource, theirs: socket.socket, *pieces: bytes) -> bytes:
    """What the reader gets of `pieces`, sent one by one."""
    got = b""
    for piece in pieces:
        theirs.sendall(piece)
        got += source.read(1 << 16) or b""
    return got


def test_the_protocol_is_taken_out_wherever_it_is_cut(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    text = b"a\xff\xffb\r\0c\r\nd" + bytes((IAC, SB, COM_PORT, 107, 7, IAC, SE)) + b"e"
    text += bytes((IAC, SB, COM_PORT, 101, IAC, IAC, SE, 5, IAC, SE))
    text += bytes((IAC, WILL, BINARY)) + b"f\r\0g" + bytes((IAC, 241)) + b"h"
    # Until the server is binary a NUL after CR is telnet's; then it is the console's.
    plain = b"a\xffb\rc\r\ndef\r\0gh"
    assert _read(source, theirs, *(text[at : at + 1] for at in range(len(text)))) == plain


def test_a_whole_piece_gives_the_same_as_single_bytes(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    text = b"x" * 1000 + b"\xff\xff" * 1000 + b"\r\0" * 10
    assert _read(source, theirs, text) == b"x" * 1000 + b"\xff" * 1000 + b"\r" * 10


def test_offers_are_answered_once(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    asked = _said(theirs)
    assert bytes((IAC, DO, BINARY)) in asked
    assert bytes((IAC, WILL, COM_PORT)) not in asked
    for _ in range(3):
        assert source_reads_nothing(source, theirs, bytes((IAC, WILL, BINARY)))
        assert _said(theirs) == b"", "an answer to what we asked is not answered"
    assert source_reads_nothing(source, theirs, bytes((IAC, WILL, ECHO)))
    assert _said(theirs) == bytes((IAC, DO, ECHO))
    assert source_reads_nothing(source, theirs, bytes((IAC, DO, WINDOW_SIZE)))
    assert _said(theirs) == bytes((IAC, WONT, WINDOW_SIZE))
    assert source_reads_nothing(source, theirs, bytes((IAC, WONT, ECHO)))
    assert _said(theirs) == bytes((IAC, DONT, ECHO))


def source_reads_nothing(source: TelnetSource, theirs: socket.socket, data: bytes) -> bool:
    """Whether protocol alone is neither bytes of the console nor its end."""
    theirs.sendall(data)
    return source.read(100) is None


def test_what_is_typed_is_escaped(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    _said(theirs)
    source.write(b"a\xff\r")
    assert _said(theirs) == b"a\xff\xff\r\0"
    assert source_reads_nothing(source, theirs, bytes((IAC, DO, BINARY)))
    source.write(b"a\xff\r")
    assert _said(theirs) == b"a\xff\xff\r"
    assert source.send_break()
    assert _said(theirs) == bytes((IAC, BREAK))


def test_rfc2217_sets_the_port_up_and_its_break_is_the_ports(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours, BAUD)
    assert bytes((IAC, WILL, COM_PORT)) in _said(theirs)
    assert source_reads_nothing(source, theirs, bytes((IAC, DO, COM_PORT)))
    told = _said(theirs)
    assert bytes((IAC, SB, COM_PORT, 1)) + struct.pack(">I", BAUD) + bytes((IAC, SE)) in told
    for what, value in ((2, 8), (3, 1), (4, 1), (5, 1)):
        assert bytes((IAC, SB, COM_PORT, what, value, IAC, SE)) in told
    assert source.send_break()
    on, off = (bytes((IAC, SB, COM_PORT, 5, value, IAC, SE)) for value in (5, 6))
    assert _said(theirs) == on + off


def test_a_subnegotiation_without_an_end_fills_no_memory(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    _read(source, theirs, bytes((IAC, SB, COM_PORT)), *[b"x" * 500] * 5)
    assert len(source._rest) <= 1 << 10
    assert _read(source, theirs, b"alive") == b"alive"


def test_the_end_is_the_end(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    theirs.close()
    assert source.read(10) == b""


def test_a_server_that_hangs_up_at_once_leaves_no_socket(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        TelnetSource(ours)
    assert ours.fileno() == -1


def test_a_server_that_goes_before_it_is_answered_has_ended(pair: Pair) -> None:
    ours, theirs = pair
    source = TelnetSource(ours)
    theirs.sendall(bytes((IAC, DO, WINDOW_SIZE)))
    theirs.close()
    assert source.read(10) == b""
