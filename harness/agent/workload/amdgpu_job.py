"""A submitted job: how to end it, and what its fence says became of it.

Made for one node by the amdgpu workload; nothing in here submits.
"""

from __future__ import annotations

import struct
import time
from typing import Any, NamedTuple

from .amdgpu_device import Buffer, Job
from .fence import Fence

__all__ = ["POLLED", "Hang", "Submitted"]

POLLED = 1024
"""Bytes into a hang's buffer: the dword its ring polls.  The commands are before it."""

_RELEASED = 1


class Hang:
    """What ends a hang: known before its submission, so that none is ever unknown."""

    def __init__(self, buffer: Buffer, releasable: bool) -> None:
        self.buffer = buffer
        self.releasable = releasable
        self.released_at: int | None = None

    def release(self) -> bool:
        """Let the polled dword differ from 0; False when this hang does not poll."""
        if self.releasable and self.released_at is None:
            self.released_at = time.monotonic_ns()
            struct.pack_into("<I", self.buffer.memory, POLLED, _RELEASED)
        return self.releasable


class Submitted(NamedTuple):
    """A job, its fence and who that is, and CLOCK_MONOTONIC in ns just before the submission."""

    job: Job
    fence: Fence
    at: int
    hang: Hang | None
    identity: tuple[int | None, int | None]

    def outcome(self, wait_error: int) -> dict[str, Any]:
        """As AmdgpuWorkload.wait says; `wait_error` is passed through.  Raises AgentError."""
        info = self.fence.info()
        signaled = info["status"] != 0
        stamps = [fence["timestamp_ns"] for fence in info["fences"] if fence["timestamp_ns"]]
        stamp = max(stamps) if stamps and signaled else None
        return {
            "context": self.identity[0],
            "seqno": self.identity[1],
            "signaled": signaled,
            "error": min(0, info["status"]),
            "timestamp_ns": stamp,
            "elapsed_ns": stamp - self.at if stamp is not None else None,
            "submitted_ns": self.at,
            "released_ns": self.hang.released_at if self.hang else None,
            "wait_error": wait_error,
            "fences": info["fences"],
        }
