"""The wire: a greeting each way, then length-prefixed frames on numbered streams.

Both sides use this module.  Stream 0 is control (JSON); every other stream is
the raw bytes of one collector or workload, and an empty frame ends it.
"""

from __future__ import annotations

import json
import struct
from typing import Any

__all__ = [
    "CONTROL",
    "GREETING_SIZE",
    "MAX_PAYLOAD",
    "PROTOCOL",
    "FrameDecoder",
    "FrameError",
    "encode",
    "encode_control",
    "greeting",
    "parse_control",
    "parse_greeting",
]

PROTOCOL = 1
"""Version of everything after the greeting; it changes when either side would misread the other."""

CONTROL = 0
MAX_PAYLOAD = 16 << 20
"""Bytes.  A longer frame can only be a broken stream: nobody sends one."""

_MAGIC = b"tdrlab\r\n"  # the line end shows a link that translates them, such as a tty
_GREETING = struct.Struct(">8sI")
_HEADER = struct.Struct(">II")
GREETING_SIZE = _GREETING.size


class FrameError(Exception):
    """The bytes are not this protocol's; the stream cannot be used any further."""


def greeting(version: int = PROTOCOL) -> bytes:
    """The 12 bytes each side sends first: magic and version, big endian."""
    return _GREETING.pack(_MAGIC, version)


def parse_greeting(data: bytes) -> int:
    """The peer's version.  Raises FrameError when `data` is no greeting."""
    if len(data) != GREETING_SIZE or not data.startswith(_MAGIC):
        raise FrameError(f"expected the agent protocol's greeting, got {data[:64]!r}")
    version: int = _GREETING.unpack(data)[1]
    return version


def encode(stream: int, payload: bytes) -> bytes:
    """One frame.  Raises FrameError for a payload over MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"a frame of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    return _HEADER.pack(stream, len(payload)) + payload


def encode_control(message: dict[str, Any]) -> bytes:
    """A control message as a frame; lone surrogates (bytes that were no UTF-8) survive."""
    return encode(CONTROL, json.dumps(message, separators=(",", ":")).encode("ascii"))


def parse_control(payload: bytes) -> dict[str, Any]:
    """A control frame's message.  Raises FrameError when it is not a JSON object."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a control frame is not JSON ({error}): {payload[:64]!r}") from error
    if not isinstance(message, dict):
        raise FrameError(f"a control frame is not an object: {payload[:64]!r}")
    return message


class FrameDecoder:
    """Bytes in, in pieces of any size; whole frames out.  Holds one frame at most."""

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._header: tuple[int, int] | None = None

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, as (stream, payload).

        Raises FrameError for a length over the limit, before any of it is kept.
        """
        self._buffer += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        while True:
            if self._header is None:
                if len(self._buffer) - start < _HEADER.size:
                    break
                stream, length = _HEADER.unpack_from(self._buffer, start)
                if length > self._limit:
                    raise FrameError(
                        f"a frame on stream {stream} says {length} bytes; the limit is "
                        f"{self._limit}: the stream is out of step"
                    )
                self._header = (stream, length)
                start += _HEADER.size
            stream, length = self._header
            if len(self._buffer) - start < length:
                break
            frames.append((stream, bytes(self._buffer[start : start + length])))
            start += length
            self._header = None
        del self._buffer[:start]
        return frames

    def partial(self) -> bool:
        """Whether a frame has begun and not ended: at the end of the stream, it was cut."""
        return bool(self._buffer) or self._header is not None
