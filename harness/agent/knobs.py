"""Knobs: kernel settings changed for a test and put back after it.

Put back in the reverse of the order they were first changed, since a later one
may only be writable while an earlier one has its new value.
"""

from __future__ import annotations

import threading
from typing import Any

from . import fileio
from .errors import AgentError, target
from .guard import Guard

__all__ = ["Knobs"]

_VALUE_LIMIT = 1 << 16


class Knobs:
    """The originals of every knob turned in this session."""

    def __init__(self, guard: Guard | None = None) -> None:
        """`guard` is told of each, lest the agent be killed."""
        self._guard = guard
        self._originals: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def turn(self, path: str, value: str, seconds: float) -> str:
        """Write `value`; the original as text.  Raises AgentError (target)."""
        with self._lock:
            first = path not in self._originals
            if first:
                data, more = fileio.read(path, _VALUE_LIMIT, seconds)
                if more:
                    raise target("its value is too long to be remembered", path, "use write")
                # Before the write: one that times out may still take effect.
                self._originals[path] = _chosen(data)
                if self._guard is not None:
                    self._guard.remember(path, self._originals[path])
            try:
                fileio.write(path, value.encode(), seconds)
            except AgentError as error:
                if first and error.number is not None:
                    self._forget(path)
                raise
            return self._originals[path].decode("utf-8", "surrogateescape")

    def restore(self, seconds: float) -> dict[str, list[Any]]:
        """Put all back, each within `seconds`: {"restored": [path], "failed": [{path, what}]}.

        One that fails stays remembered, is reported, and stops no other.
        """
        restored: list[Any] = []
        failed: list[Any] = []
        with self._lock:
            for path in reversed(list(self._originals)):
                try:
                    fileio.write(path, self._originals[path], seconds)
                except AgentError as error:
                    failed.append({"path": path, "what": error.what})
                else:
                    self._forget(path)
                    restored.append(path)
        return {"restored": restored, "failed": failed}

    def _forget(self, path: str) -> None:
        del self._originals[path]
        if self._guard is not None:
            self._guard.forget(path)

    def turned(self) -> dict[str, str]:
        """The knobs that are not at their original, with that original."""
        with self._lock:
            return {
                path: value.decode("utf-8", "surrogateescape")
                for path, value in self._originals.items()
            }


def _chosen(data: bytes) -> bytes:
    """What to write to get back to `data`.

    Choice files show all values with the current one in brackets, such as
    tracefs' trace_clock: `[local] global mono`.
    """
    for word in data.split():
        if len(word) > 2 and word.startswith(b"[") and word.endswith(b"]"):
            return word[1:-1] + b"\n"
    return data
