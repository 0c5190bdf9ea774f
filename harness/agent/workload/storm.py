"""A storm: small jobs as fast as one thread submits them, counted by who submits.

What the kernel made of them is for others to say; this is the other side of
that account.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from typing import Any, Protocol

from ..errors import AgentError

__all__ = ["MAX_DEPTH", "Port", "Storm"]

MAX_DEPTH = 16
"""A context remembers its 32 latest jobs at least (amdgpu_sched_jobs, amdgpu_device.c)."""


class Port(Protocol):
    """One ring, to which a driver's small jobs are submitted, each from a buffer of its slot."""

    dead: int
    """The errno with which a context refuses that a reset has killed."""

    def context(self) -> Any:
        """A new context.  Raises AgentError."""

    def free_context(self, context: Any) -> None:
        """Free it; none of its jobs is asked for any more.  Raises AgentError."""

    def send(self, context: Any, slot: int) -> Any:
        """Submit a job, which is then known by what is returned.  Raises AgentError."""

    def identity(self, job: Any) -> tuple[int | None, int | None]:
        """Context and seqno of its fence, as fence.identity gives them.  Raises AgentError."""

    def wait(self, job: Any, until_ns: int) -> bool:
        """Whether it ended by `until_ns` of CLOCK_MONOTONIC; AgentError's number is the error
        that it ended with.  Asked once of each job, in their order."""


class Storm:
    """Jobs on one ring, from buffers made once."""

    def __init__(self, port: Port, place: Any, depth: int) -> None:
        """`place` says for whom it was made: a storm of the same goes on with it."""
        self.place = place
        self._port = port
        self._depth = depth
        self._context: Any = None
        self._dead: list[Any] = []

    def run(self, count: int, seconds: float, timeout_ns: int) -> dict[str, Any]:
        """As the workloads' `storm` says.  Raises AgentError for what is no job's end."""
        began = time.monotonic_ns()
        until = began + int(seconds * 1e9)
        flying: deque[Any] = deque()
        fences: list[dict[str, Any]] = []
        errors: dict[str, int] = {}
        submitted = completed = pending = refused = 0
        while flying or (submitted < count and time.monotonic_ns() < until and not pending):
            going = submitted < count and time.monotonic_ns() < until and not pending
            if going and len(flying) < self._depth:
                job = self._submit(submitted % self._depth, fences)
                if job is None:
                    refused += 1
                    continue
                submitted += 1
                flying.append(job)
                continue
            # Behind one that does not end, none is waited for.
            patience = 0 if pending else timeout_ns
            try:
                done = self._port.wait(flying.popleft(), time.monotonic_ns() + patience)
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
            self._port.free_context(dead)
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

    def close(self) -> None:
        """Free its contexts; it runs no more.  Raises AgentError."""
        contexts = [*self._dead, self._context] if self._context is not None else self._dead
        self._context, self._dead = None, []
        for context in contexts:
            self._port.free_context(context)

    def _submit(self, slot: int, fences: list[dict[str, Any]]) -> Any:
        """One job; None where the context is dead, the next time there is a new one."""
        fresh = self._context is None
        if fresh:
            self._context = self._port.context()
        try:
            job = self._port.send(self._context, slot)
        except AgentError as error:
            # No reset has had the time to kill a new one: it is the GPU that is dead.
            if error.number != self._port.dead or fresh:
                raise
            self._dead.append(self._context)
            self._context = None
            return None
        if fresh or not fences:
            context, first = self._port.identity(job)
            fences.append({"context": context, "first": first, "submitted": 0})
        fences[-1]["submitted"] += 1
        return job
