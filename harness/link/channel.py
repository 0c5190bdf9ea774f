"""A two-way stream of bytes to a process on a target.

The agent's client reads and writes this, so it runs the same over SSH, over a
local process in tests, or over anything else that carries bytes.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Protocol

from harness.errors import LabError

__all__ = ["ByteChannel", "ProcessChannel"]


class ByteChannel(Protocol):
    """Bytes to and from one process.  `recv` and `send` may be called from two threads."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""

    def recv(self, limit: int) -> bytes:
        """Block for 1..`limit` bytes; b"" at the end.  `close` ends the wait."""

    def send(self, data: bytes) -> None:
        """Write all of `data`.  Raises LabError when the other end is gone."""

    def stderr_tail(self) -> str:
        """The last few KiB the process wrote to stderr, for messages."""

    def close(self) -> None:
        """Close both directions.  Idempotent."""


class ProcessChannel:
    """A local process's stdin and stdout."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.peer = argv[0]
        self._stderr = bytearray()
        try:
            self.process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise LabError(f"cannot start {argv[0]}: {error}", cure="check the path") from error

    def recv(self, limit: int) -> bytes:
        assert self.process.stdout is not None
        try:
            return self.process.stdout.read(limit) or b""
        except (OSError, ValueError):
            return b""

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self.process.stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise LabError(
                f"the process is gone: {error}", where=self.peer, cure="see its stderr"
            ) from error

    def stderr_tail(self) -> str:
        return ""

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
