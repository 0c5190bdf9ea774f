"""Memory pressure: what is free is taken, then the page cache is churned, so that reclaim runs.

What is read are holes of a file: clean pages, so that reclaim always finds some and nobody runs
out of memory; on no disk, so that nothing is written.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from typing import Any

from ..arguments import Arguments
from ..errors import target

__all__ = ["Churn"]

_PIECE = 1 << 20
_TAKEN = 32 << 20
# A file system on memory gives the same page for every hole.
_IN_MEMORY = {"tmpfs", "ramfs", "rootfs"}
_MAP_POPULATE = 0x8000  # asm-generic/mman.h; Python knows it from 3.10 on


class Churn:
    """One thread's reading, until told to stop; what is taken is given back with the process."""

    def __init__(self) -> None:
        self._taken: list[mmap.mmap] = []
        self._stop = threading.Event()

    def squeeze(self, arguments: Arguments) -> dict[str, Any]:
        """{leave: bytes} -> {"free": bytes}: take memory until about so much of it is free."""
        leave = arguments.integer("leave")
        arguments.done()
        # If anybody must be killed for memory, it shall be us (proc(5), oom_score_adj).
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_POPULATE
        while (free := _free()) > leave:
            self._taken.append(mmap.mmap(-1, max(_PIECE, min(_TAKEN, free - leave)), flags=flags))
        return {"free": free}

    def perform(self, arguments: Arguments) -> dict[str, Any]:
        """{bytes, folder = "/var/tmp"} -> {"read": bytes}: read a file of so many bytes, again
        and again until churn.stop; at least once.  Raises AgentError."""
        size = arguments.integer("bytes")
        folder = arguments.text("folder", "/var/tmp")
        arguments.done()
        kind = _file_system(os.path.realpath(folder))
        if kind in _IN_MEMORY:
            raise target(f"{folder} is on {kind}", cure="name a folder on a disk")
        room, done = bytearray(_PIECE), 0
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.ftruncate(file.fileno(), size)
            while done < size or not self._stop.is_set():
                done += os.preadv(file.fileno(), [room], done % size)
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


def _free() -> int:
    """Bytes that nobody uses, not even as a cache."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found["MemFree"].split()[0]) << 10


def _file_system(folder: str) -> str:
    """The type of the file system that `folder` is on: of the longest mount that it is below."""
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, at, found, *_ = line.split(" ")
            if f"{folder}/".startswith(f"{at.rstrip('/')}/") and len(at) >= len(best):
                best, kind = at, found
    return kind
