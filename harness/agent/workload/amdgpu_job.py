"""A submitted job: how to end it, and what its fence says became of it.

Made for one node by the amdgpu workload; only a storm's port submits.
"""

from __future__ import annotations

import errno
from typing import Any, Callable, NamedTuple

from .amdgpu_device import Command, Device, Engine, Job
from .fence import Fence
from .hang import Hang
from .own_memory import Page

__all__ = ["POLLED", "RELEASED", "Port", "Submitted"]

POLLED = 1024
"""Bytes into a hang's buffer: the dword its ring polls.  The commands are before it."""

RELEASED = 1
"""What that dword is when the ring shall go on."""


class Submitted(NamedTuple):
    """A job, its fence and who that is, and CLOCK_MONOTONIC in ns just before the submission;
    its buffer's handle, and the page of this process's own that it may write, if any."""

    job: Job
    fence: Fence
    at: int
    hang: Hang | None
    identity: tuple[int | None, int | None]
    buffer: int
    page: Page | None = None

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


class Port:
    """One ring of an engine, as a storm wants it: storm.Port."""

    dead = errno.ECANCELED

    def __init__(
        self, device: Device, engine: Engine, ring: int, fill: Callable[[int], list[int]]
    ) -> None:
        """`fill` gives the commands of a job whose buffer is at that address."""
        self._device = device
        self._engine = engine
        self._ring = ring
        self._fill = fill
        self._commands: dict[int, Command] = {}

    def context(self) -> int:
        return self._device.context()

    def free_context(self, context: int) -> None:
        self._device.free_context(context)

    def send(self, context: int, slot: int) -> Job:
        if slot not in self._commands:
            buffer = self._device.buffer()
            dwords = self._fill(buffer.address)
            self._commands[slot] = self._device.command(self._engine, self._ring, buffer, dwords)
        sequence = self._device.send(context, self._commands[slot])
        return Job(context, self._engine, self._ring, sequence)

    def identity(self, job: Job) -> tuple[int | None, int | None]:
        fence = self._device.fence(job)
        try:
            return fence.identity()
        finally:
            fence.close()

    def wait(self, job: Job, until_ns: int) -> bool:
        return self._device.wait(job, until_ns)
