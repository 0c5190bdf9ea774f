"""A fence as userspace can hold it: a sync file, polled and asked how it ended.

Independent of the driver: whatever hands out sync files is asked the same way.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import re
import select
import time
from typing import Any

from ..errors import AgentError
from ..uapi.ioc import perform
from ..uapi.syncfile import SYNC_IOC_FILE_INFO, SyncFenceInfo, SyncFileInfo

__all__ = ["NOBODY", "Fence", "identity"]

NOBODY: tuple[int | None, int | None] = (None, None)
"""The identity of a fence that its sync file does not tell."""

# What the kernel fills of a name or a timeline; one as long as that may have been cut.
_FULL = 31


class Fence:
    """Owns the sync file `fd`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def wait(self, timeout_ns: int) -> bool:
        """Whether it signalled within `timeout_ns`.  Waits by poll(2)."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        end = time.monotonic_ns() + timeout_ns
        # poll counts in ms and rounds down: one more, so as never to be early.
        return bool(poller.poll(max(0, end - time.monotonic_ns()) / 1e6 + 1))

    def info(self) -> dict[str, Any]:
        """{"name", "status", "fences": [{"driver", "timeline", "status", "timestamp_ns"}]}.

        `name` is the file's, as `identity` reads it; `status` is 1 signalled, 0 pending,
        negative the errno it signalled with; `timestamp_ns` is CLOCK_MONOTONIC, 0 while
        pending.  Raises AgentError.
        """
        # Nearly always there is one; for more than there is room it is EINVAL.
        room = (SyncFenceInfo * 1)()
        answer = SyncFileInfo(num_fences=1, sync_fence_info=c.addressof(room))
        try:
            perform(self.fd, SYNC_IOC_FILE_INFO, answer)
        except AgentError as error:
            if error.number != errno.EINVAL:
                raise
            answer = SyncFileInfo()
            perform(self.fd, SYNC_IOC_FILE_INFO, answer)
            room = (SyncFenceInfo * max(1, answer.num_fences))()
            answer.sync_fence_info = c.addressof(room)
            perform(self.fd, SYNC_IOC_FILE_INFO, answer)
        fences: list[dict[str, Any]] = [
            {
                "driver": fence.driver_name.decode("utf-8", "replace"),
                "timeline": fence.obj_name.decode("utf-8", "replace"),
                "status": fence.status,
                "timestamp_ns": fence.timestamp_ns,
            }
            for fence in room[: answer.num_fences]
        ]
        name = answer.name.decode("utf-8", "replace")
        return {"name": name, "status": answer.status, "fences": fences}

    def identity(self) -> tuple[int | None, int | None]:
        """Context and seqno, where they can be told.  Ask before it signals: later kernels
        then give another timeline.  Raises AgentError."""
        return identity(self.info())

    def close(self) -> None:
        """Drop the reference.  Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def identity(info: dict[str, Any]) -> tuple[int | None, int | None]:
    """Context and seqno out of a sync file's name, or NOBODY where that is not certain.

    A file without a name of its own is called driver-timelineCONTEXT-SEQNO
    (drivers/dma-buf/sync_file.c, sync_file_get_name), cut to 31 bytes.  Nothing parts
    the timeline from the context, so it must be known, and whole.
    """
    name, fences = info["name"], info["fences"]
    if len(fences) != 1 or len(name.encode()) >= _FULL:
        return NOBODY
    driver, timeline = fences[0]["driver"], fences[0]["timeline"]
    found = re.fullmatch(re.escape(f"{driver}-{timeline}") + r"(\d+)-(-?\d+)", name)
    return (int(found[1]), int(found[2])) if found else NOBODY
