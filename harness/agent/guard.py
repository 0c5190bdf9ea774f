"""The guard of the knobs: a process that puts them back when the agent was killed.

Forked before the agent has threads, in a session of its own, with nothing open but a pipe; at
the pipe's end, which the kernel sees to, it writes back what was not forgotten until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import NoReturn

from . import fileio
from .errors import AgentError
from .kmsg import say

__all__ = ["Guard"]

_SECONDS = 5.0
_PIECE = 1 << 16


class Guard:
    """The agent's end of it.  Its methods never raise: without a guard the agent itself restores
    knobs, as long as it lives."""

    def __init__(self) -> None:
        """Fork it.  Only where this process has one thread."""
        receive, self._send = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(receive)
        os.close(receive)

    def remember(self, path: str, original: bytes) -> None:
        """`original` is to be written to `path`, before all that it remembers already."""
        self._tell({"path": path, "original": original.hex()})

    def forget(self, path: str) -> None:
        """`path` is as it was before it was last to be remembered."""
        self._tell({"path": path})

    def close(self) -> None:
        """Let it go; what it still remembers it puts back now."""
        with contextlib.suppress(OSError):
            os.close(self._send)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def _tell(self, line: dict[str, str]) -> None:
        view = memoryview(json.dumps(line).encode() + b"\n")
        with contextlib.suppress(OSError):
            while view:
                view = view[os.write(self._send, view) :]


def _watch(receive: int) -> NoReturn:
    """The guard's whole life."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(receive, 3)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(4, 1 << 16)
        _restore(_remembered(3))
    finally:
        os._exit(0)


def _remembered(fd: int) -> list[tuple[str, bytes]]:
    """What is not forgotten when the pipe ends, in the order it was told.

    A path may be there twice: turned for the whole session, and again for a test.
    """
    data = bytearray()
    while True:
        piece = os.read(fd, _PIECE)
        if not piece:
            break
        data += piece
    known: list[tuple[str, bytes]] = []
    for line in bytes(data).split(b"\n")[:-1]:
        told = json.loads(line)
        path = told["path"]
        if "original" in told:
            known.append((path, bytes.fromhex(told["original"])))
        elif last := [at for at, (other, _) in enumerate(known) if other == path][-1:]:
            del known[last[0]]
    return known


def _restore(known: list[tuple[str, bytes]]) -> None:
    for path, original in reversed(known):
        try:
            fileio.write(path, original, _SECONDS)
            outcome = "restored"
        except AgentError as error:
            outcome = f"not restored: {error.what}"
        with contextlib.suppress(OSError):
            say(f"agent gone: {path}: {outcome}"[:900])
