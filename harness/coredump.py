"""The devcoredump of a card: what its last reset left, until somebody reads it away.

Kernel side: drivers/base/devcoredump.c.  There is one at a time for a device; a new one is
dropped while an old one is there, and it goes by itself after five minutes.
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64decode, b64encode

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent

__all__ = ["Coredump"]

_CLASS = "/sys/class/devcoredump/disabled"
_PIECE = 4 << 20
# Bytes; of a dump that never ends only so much is taken.
_LIMIT = 256 << 20


class Coredump:
    """Where a card's dump appears."""

    def __init__(self, agent: Agent, path: str, limit_s: float) -> None:
        """`path` is the dump's data file; `limit_s` bounds one step, in seconds."""
        self.path = path
        self._agent = agent
        self._limit_s = limit_s

    def refusal(self) -> str:
        """Why this kernel makes no dumps, or "" where it does."""
        try:
            disabled = self._read(_CLASS, 0, 16)
        except TargetError:
            return "this kernel has no devcoredump (CONFIG_DEV_COREDUMP)"
        return "devcoredump was disabled on this boot" if disabled.strip() == b"1" else ""

    def discard(self) -> None:
        """Free a dump that is there, so that the next one is taken."""
        data = b64encode(b"1").decode()
        with contextlib.suppress(TargetError):
            self._agent.call("write", Deadline(self._limit_s), path=self.path, data=data)

    def read(self, patience_s: float) -> bytes:
        """The dump once it is there; b"" where none came within `patience_s`."""
        deadline = Deadline(patience_s)
        while True:
            try:
                data = self._read(self.path, 0, _PIECE)
                break
            except TargetError:
                if deadline.expired():
                    return b""
                time.sleep(0.2)
        while data and len(data) % _PIECE == 0 and len(data) < _LIMIT:
            piece = self._read(self.path, len(data), _PIECE)
            if not piece:
                break
            data += piece
        return data

    def _read(self, path: str, offset: int, limit: int) -> bytes:
        deadline = Deadline(self._limit_s)
        reply = self._agent.call(
            "read", deadline, path=path, offset=offset, limit=limit, seconds=self._limit_s
        )
        return b64decode(reply["data"])
