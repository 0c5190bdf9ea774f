"""The byte streams of one SSH channel: drained at once, bounded in memory.

Both output streams share the channel's window, so one that nobody reads stops
the other: each gets its own thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import paramiko

from harness.errors import LabError
from harness.link.command import Command

__all__ = ["Kept", "SshChannel", "drain", "feed", "shut", "start"]

_CHUNK = 1 << 16
_TAIL = 8 << 10


class Kept:
    """The first `limit` bytes of a stream, and how many came after."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()
        self.lost = 0

    def add(self, chunk: bytes) -> None:
        """Keep what fits, count the rest."""
        kept = chunk[: max(0, self.limit - len(self.data))]
        self.data += kept
        self.lost += len(chunk) - len(kept)


def drain(recv: Callable[[int], bytes], into: Kept) -> None:
    """Read a stream to its end."""
    while chunk := recv(_CHUNK):
        into.add(chunk)


def feed(channel: paramiko.Channel, data: bytes) -> None:
    """Write all of `data` and end stdin; a command that stops reading is no error."""
    try:
        # paramiko copies what is left at every packet: short pieces keep that linear.
        for at in range(0, len(data), 16 * _CHUNK):
            channel.sendall(data[at : at + 16 * _CHUNK])
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        return


def shut(channel: paramiko.Channel) -> None:
    """Close `channel`; that its transport is already gone is no error."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def start(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Run `work` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


class SshChannel:
    """A ByteChannel to one command on a target."""

    def __init__(
        self,
        channel: paramiko.Channel,
        command: Command,
        where: str,
        release: Callable[[paramiko.Channel], None],
    ) -> None:
        self._channel = channel
        self._command = command
        self._where = where
        self._release = release
        self._tail = bytearray()
        self._missing = False
        self._ended = False
        self._stderr = start(self._keep_tail)

    @property
    def peer(self) -> str:
        """The target and its address."""
        return self._where

    def recv(self, limit: int) -> bytes:
        """Block for 1..`limit` bytes; b"" at the end, and when closed or the link broke."""
        chunk = self._channel.recv(limit)
        self._ended = self._ended or not chunk
        return chunk

    def send(self, data: bytes) -> None:
        """Write all of `data`.  Raises LabError when the other end is gone."""
        try:
            self._channel.sendall(data)
        except (OSError, EOFError, paramiko.SSHException) as error:
            tail = self.stderr_tail().strip()
            raise LabError(
                f"{self._command} is gone: {tail.splitlines()[-1] if tail else error}",
                where=self._where,
                cure="start it again; if that fails, see whether the target lives",
            ) from error

    def stderr_tail(self) -> str:
        """The last 8 KiB the command wrote to stderr, for messages."""
        if self._ended or self._channel.closed:
            # At the end its last words are still on their way from the other thread.
            self._stderr.join(timeout=1.0)
        text = bytes(self._tail).decode(errors="replace")
        return text + f"{self._command.argv[0]}: no such program\n" if self._missing else text

    def close(self) -> None:
        """Close both directions; the command sees the end of its stdin.  Idempotent."""
        self._release(self._channel)

    def _keep_tail(self) -> None:
        while chunk := self._channel.recv_stderr(_CHUNK):
            tail = bytes(self._tail) + chunk
            self._missing = self._missing or self._command.missing(tail)
            self._tail = bytearray(self._command.without_marks(tail)[-_TAIL:])
