"""A fence as userspace can hold it: a sync file, polled and asked how it ended.

Independent of the driver: whatever hands out sync files is asked the same way.
"""

from __future__ import annotations

import ctypes as c
import os
import select
import time
from typing import Any

from ..uapi.ioc import perform
from ..uapi.syncfile import SYNC_IOC_FILE_INFO, SyncFenceInfo, SyncFileInfo

__all__ = ["Fence"]


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
        """{"status", "fences": [{"driver", "timeline", "status", "timestamp_ns"}]}.

        `status` is 1 signalled, 0 pending, negative the errno it signalled with;
        `timestamp_ns` is CLOCK_MONOTONIC, 0 while pending.  Raises AgentError.
        """
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
        return {"status": answer.status, "fences": fences}

    def close(self) -> None:
        """Drop the reference.  Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
