"""A submitted i915 job: in which context, and what its fence says became of it.

Made for one node by the i915 workload; contexts here are an id and the open file it is of.
"""

from __future__ import annotations

import contextlib
import errno
import time
from typing import Any, Callable, NamedTuple

from ..errors import target
from .fence import Fence
from .hang import Hang
from .i915_batches import Batch
from .i915_device import Command, Device, Engine, Job
from .own_memory import Page

__all__ = ["Context", "Port", "Submitted"]


class Submitted(NamedTuple):
    """A job, where it was made, who its fence is, and CLOCK_MONOTONIC in ns just before that; the
    page of this process's own that it may write, if any."""

    context: Context
    job: Job
    at: int
    hang: Hang | None
    identity: tuple[int | None, int | None]
    page: Page | None = None

    @property
    def fence(self) -> Fence:
        """Its fence."""
        return self.job.fence

    def outcome(self, wait_error: int) -> dict[str, Any]:
        """As I915Workload.wait says; `wait_error` is passed through.  Raises AgentError."""
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


class Context(NamedTuple):
    """A context of an open file; where the chip has none, its file's own, whose id is 0."""

    device: Device
    id: int

    def submit(self, command: Command, hang: Hang | None) -> Submitted:
        """Raises AgentError; its number is EIO for a banned context and a wedged GPU."""
        at = time.monotonic_ns()
        job = self.device.send(self.id, command)
        with contextlib.ExitStack() as undo:
            undo.callback(job.fence.close)
            submitted = Submitted(self, job, at, hang, job.fence.identity())
            undo.pop_all()
        return submitted

    def free(self, keep: Device) -> None:
        """Free it, and close its file unless that is `keep`.  Raises AgentError."""
        if self.device is not keep:
            self.device.close()
        elif self.id:
            self.device.free_context(self.id)


class Port:
    """One engine, as a storm wants it: storm.Port."""

    dead = errno.EIO

    def __init__(
        self,
        fresh: Callable[[], Context],
        keep: Device,
        engine: Engine,
        writes: bool,
        build: Callable[[int], Batch],
    ) -> None:
        """`fresh` makes contexts, none of which closes the file `keep`; `build` gives a job's
        batch for the address of what it writes, if it does."""
        self._fresh = fresh
        self._keep = keep
        self._engine = engine
        self._writes = writes
        self._build = build
        self._commands: dict[tuple[int, int], Command] = {}

    def context(self) -> Context:
        return self._fresh()

    def free_context(self, context: Context) -> None:
        if context.device is not self._keep:
            gone = id(context.device)
            self._commands = {k: v for k, v in self._commands.items() if k[0] != gone}
        context.free(self._keep)

    def send(self, context: Context, slot: int) -> Job:
        key = id(context.device), slot  # a buffer is its file's
        if key not in self._commands:
            device = context.device
            page = device.buffer() if self._writes else None
            command = device.command(self._engine, device.buffer(), self._build, target=page)
            self._commands[key] = command
        return context.device.send(context.id, self._commands[key])

    def identity(self, job: Job) -> tuple[int | None, int | None]:
        return job.fence.identity()

    def wait(self, job: Job, until_ns: int) -> bool:
        done = job.fence.wait(max(0, until_ns - time.monotonic_ns()))
        status = job.fence.info()["status"]
        job.fence.close()
        if status < 0:
            raise target("its fence ended with an error", number=-status)
        return done or status > 0
