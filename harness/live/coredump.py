"""The dump of a card: what its last reset left, until somebody writes it away.

Kernel side: drivers/base/devcoredump.c, and i915's own i915_gpu_error.c.  There is one at a
time for a device; a new one is dropped while an old one is there, and a devcoredump goes by
itself after five minutes.
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64decode, b64encode

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.gpu.base import Dump
from harness.link.agent import Agent

__all__ = ["Coredump"]

_PIECE = 4 << 20
# Bytes; of a dump that never ends only so much is taken.
_LIMIT = 256 << 20


class Coredump:
    """Where a card's dump appears."""

    def __init__(self, agent: Agent, dump: Dump, limit_s: float) -> None:
        """`limit_s` bounds one step, in seconds."""
        self.name = dump.name
        self._dump = dump
        self._agent = agent
        self._limit_s = limit_s

    def refusal(self) -> str:
        """Why this kernel makes no dumps, or "" where it does."""
        try:
            switch = self._read(self._dump.switch, 0, 16)
        except TargetError as error:
            return f"this kernel makes no {self.name}: {error}"
        if self._dump.off and switch.strip() == self._dump.off:
            return f"{self.name} was disabled on this boot"
        return ""

    def discard(self) -> None:
        """Free a dump that is there, so that the next one is taken."""
        data = b64encode(b"1").decode()
        with contextlib.suppress(TargetError):
            self._agent.call("write", Deadline(self._limit_s), path=self._dump.path, data=data)

    def read(self, patience_s: float) -> bytes:
        """The dump once it is there; b"" where none came within `patience_s`."""
        deadline = Deadline(patience_s)
        while not (data := self._first()):
            if deadline.expired():
                return b""
            time.sleep(0.2)
        while data and len(data) % _PIECE == 0 and len(data) < _LIMIT:
            piece = self._read(self._dump.path, len(data), _PIECE)
            if not piece:
                break
            data += piece
        return data

    def _first(self) -> bytes:
        """The dump's beginning; b"" while there is none."""
        try:
            data = self._read(self._dump.path, 0, _PIECE)
        except TargetError:
            return b""
        return b"" if self._dump.empty and data.startswith(self._dump.empty) else data

    def _read(self, path: str, offset: int, limit: int) -> bytes:
        deadline = Deadline(self._limit_s)
        reply = self._agent.call(
            "read", deadline, path=path, offset=offset, limit=limit, seconds=self._limit_s
        )
        return b64decode(reply["data"])
