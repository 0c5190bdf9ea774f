"""Pressure on memory: the holes of a file are read through the page cache, round and round.

Such pages are clean, so that reclaim always finds some and nobody runs out of memory; and on no
disk, so that nothing is written.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

from ..arguments import Arguments
from ..errors import target

__all__ = ["Churn"]

_PIECE = 1 << 20
# A file system on memory gives the same page for every hole.
_IN_MEMORY = {"tmpfs", "ramfs", "rootfs"}


class Churn:
    """One thread's reading, until told to stop; its file, and what is cached of that, go with
    the process."""

    def __init__(self) -> None:
        self._file: Any = None
        self._stop = threading.Event()

    def perform(self, arguments: Arguments) -> dict[str, Any]:
        """{bytes, endless = false, folder = "/var/tmp"} -> {"read": bytes}: read so many bytes of
        the file, with `endless` again and again, until churn.stop.  Raises AgentError."""
        size = arguments.integer("bytes")
        endless = arguments.flag("endless")
        folder = arguments.text("folder", "/var/tmp")
        arguments.done()
        if self._file is None:
            self._file = _file(folder)
        os.ftruncate(self._file.fileno(), size)
        room, done = bytearray(_PIECE), 0
        while not self._stop.is_set() and (endless or done < size):
            done += os.preadv(self._file.fileno(), [room], done % size)
        self._stop.clear()
        return {"read": done}

    def stop(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {}: overtakes."""
        arguments.done()
        self.end()
        return {}

    def end(self) -> None:
        """From any thread."""
        self._stop.set()


def _file(folder: str) -> Any:
    kind = _file_system(os.path.realpath(folder))
    if kind in _IN_MEMORY:
        raise target(f"{folder} is on {kind}", cure="name a folder on a disk")
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def _file_system(folder: str) -> str:
    """The type of the file system that `folder` is on: of the longest mount that it is below."""
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, at, found, *_ = line.split(" ")
            if f"{folder}/".startswith(f"{at.rstrip('/')}/") and len(at) >= len(best):
                best, kind = at, found
    return kind
