"""A storm: small jobs as fast as one thread submits them, counted by who submits.

What the kernel made of them is for others to say; this is the other side of
that account.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from typing import Any, Callable

from ..errors import AgentError
from .amdgpu_device import Device, Engine, Job

__all__ = ["MAX_DEPTH", "Storm"]

MAX_DEPTH = 16
"""A context remembers its 32 latest jobs at least (amdgpu_sched_jobs, amdgpu_device.c)."""


class Storm:
    """Jobs on one ring, from buffers made once."""

    def __init__(
        self,
        device: Device,
        engine: Engine,
        ring: int,
        depth: int,
        fill: Callable[[int], list[int]],
    ) -> None:
        """`fill` gives the commands of a job whose buffer is at that address."""
        self.place = (engine, ring, depth)
        self._device = device
        self._engine = engine
        self._ring = ring
        self._commands = []
        for _ in range(depth):
            buffer = device.buffer()
            self._commands.append(device.command(engine, ring, buffer, fill(buffer.address)))
        self._context: int | None = None
        self._dead: list[int] = []

    def run(self, count: int, seconds: float, timeout_ns: int) -> dict[str, Any]:
        """As AmdgpuWorkload.storm says.  Raises AgentError for what is no job's end."""
        began = time.monotonic_ns()
        until = began + int(seconds * 1e9)
        flying: deque[Job] = deque()
        fences: list[dict[str, Any]] = []
        errors: dict[str, int] = {}
        submitted = completed = pending = refused = 0
        while flying or (submitted < count and time.monotonic_ns() < until and not pending):
            going = submitted < count and time.monotonic_ns() < until and not pending
            if going and len(flying) < len(self._commands):
                job = self._submit(submitted % len(self._commands), fences)
                if job is None:
                    refused += 1
                    continue
                submitted += 1
                flying.append(job)
                continue
            # Behind one that does not end, none is waited for.
            patience = 0 if pending else timeout_ns
            try:
                done = self._device.wait(flying.popleft(), time.monotonic_ns() + patience)
            except AgentError as error:
                if error.number is None:
                    raise
                name = errno.errorcode.get(error.number, str(error.number))
                errors[name] = errors.get(name, 0) + 1
                done = True
            completed += done
            pending += not done
        # Not sooner: a job is asked for through its context.
        for dead in self._dead:
            self._device.free_context(dead)
        self._dead.clear()
        return {
            "submitted": submitted,
            "completed": completed,
            "pending": pending,
            "refused": refused,
            "errors": errors,
            "elapsed_ns": time.monotonic_ns() - began,
            "fences": fences,
        }

    def _submit(self, slot: int, fences: list[dict[str, Any]]) -> Job | None:
        """One job; None where the context is dead, the next time there is a new one."""
        fresh = self._context is None
        if self._context is None:
            self._context = self._device.context()
        try:
            sequence = self._device.send(self._context, self._commands[slot])
        except AgentError as error:
            if error.number != errno.ECANCELED:
                raise
            self._dead.append(self._context)
            self._context = None
            return None
        job = Job(self._context, self._engine, self._ring, sequence)
        if fresh or not fences:
            fence = self._device.fence(job)
            context, first = fence.identity()
            fence.close()
            fences.append({"context": context, "first": first, "submitted": 0})
        fences[-1]["submitted"] += 1
        return job
