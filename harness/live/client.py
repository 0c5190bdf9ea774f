"""A client of the GPU: an unprivileged process on the target, driven step by step.

Wraps one workload of the agent's in words a testcase reads; knows no driver.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from harness.deadline import Deadline
from harness.errors import UsageError
from harness.evidence.jobs import JobLine, Kind
from harness.gpu.base import Backend, Engine
from harness.link.agent import Workload
from harness.live.waiters import Waiter

__all__ = ["Canary", "Client", "Fence", "Job", "Storm"]


@dataclass(frozen=True, slots=True)
class Job:
    """A submission, as its client numbers it; `expected_s` is how long it should last, in seconds,
    0.0 where it would not end by itself."""

    number: int
    engine: Engine
    expected_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fence:
    """What became of a job's fence.

    `error` is 0 or a negative errno (dma_fence.error); `seconds` from submission to
    the fence's own timestamp, None while it is pending.  `wait_error` is what the wait
    itself told its caller, 0 or negative; `woken` when it returned, in seconds from submission.
    """

    signaled: bool
    error: int
    seconds: float | None
    wait_error: int = 0
    woken: float = 0.0

    def __str__(self) -> str:
        if not self.signaled:
            return "pending"
        ended = errno.errorcode.get(-self.error, str(self.error)) if self.error else "no error"
        return f"signaled after {self.seconds:.3f} s with {ended}"


@dataclass(frozen=True, slots=True)
class Canary:
    """A small job that writes a value: `ok`, or the `stage` it failed at (submit: the driver
    refused it with `errname`; fence: late or ended with an error; value: not written)."""

    ok: bool
    stage: str
    errname: str
    fence: Fence | None

    def __str__(self) -> str:
        if self.ok:
            return "ok"
        return f"failed at {self.stage}: {self.errname or self.fence or 'wrong value'}"


@dataclass(frozen=True, slots=True)
class Storm:
    """What became of a storm of small jobs, as its submitter counted them.

    `completed` ended, `errors` (by errno's name) among them; `pending` had not when it
    stopped waiting; `refused` were never jobs.  `fences` are (fence context, seqno of its
    first job, jobs) in the kernel, None where it could not be told.
    """

    submitted: int
    completed: int
    pending: int
    refused: int
    errors: Mapping[str, int]
    seconds: float
    fences: tuple[tuple[int | None, int | None, int], ...]

    def by_context(self) -> Counter[int]:
        """Its jobs by the fence context that a trace shows, of 32 bits; all by 0 where nobody
        could tell the submitter."""
        nameless = any(context is None for context, *_ in self.fences)
        told: Counter[int] = Counter()
        for context, _, submitted in self.fences:
            told[0 if nameless else (context or 0) & 0xFFFFFFFF] += submitted
        return told


class Client:
    """One process with the device open; a context manager."""

    def __init__(
        self,
        workload: Workload,
        backend: Backend,
        limit_s: float,
        keep: Callable[[JobLine], None] = lambda line: None,
    ) -> None:
        """`limit_s` bounds every step that has no deadline of its own, in seconds.

        `keep` is given what is known of each job, when it is submitted and whenever
        more is known.
        """
        self.pid = int(workload.ready["pid"])
        self._workload = workload
        self._backend = backend
        self._limit_s = limit_s
        self._keep = keep
        self._lines: dict[int, JobLine] = {}
        self._context: int | None = None

    def device(self) -> dict[str, Any]:
        """What the driver tells any client of the device and its engines."""
        return self._call("engines")

    def context(self) -> int:
        """A new context.  Steps that are given none share the client's first."""
        return int(self._call("context")["context"])

    def inbox(self) -> str:
        """Where another process on the target may send a buffer to, for `adopt`."""
        return str(self._call("inbox")["address"])

    def adopt(self) -> int:
        """This client's number of the buffer that was sent to its inbox."""
        return int(self._call("adopt")["buffer"])

    def lend(self, address: str) -> int:
        """This client's number of a new buffer, which is sent to another process's inbox."""
        return int(self._call("lend", to=address)["buffer"])

    def hang(
        self,
        engine: Engine,
        recipe: str | None = None,
        context: int | None = None,
        writes: int | None = None,
        *,
        own: bool = False,
    ) -> Job:
        """Submit a job that never completes; `recipe` defaults to the engine's safest.

        Whoever shows or uses the shared buffer `writes` waits for the job.  With `own` it may
        write a page of its process's memory.
        """
        asked = self._asked(engine, recipe, context, writes, own)
        return self._submitted("hang", engine, self._call("hang", **asked))

    def slow(self, engine: Engine, seconds: float, context: int | None = None) -> Job:
        """Submit a job that lasts about `seconds` and ends by itself; a shorter one where one job
        cannot last so long, as its `expected_s` tells."""
        reply = self._call(
            "slow",
            engine=engine.ip,
            ring=engine.ring,
            context=self._in(context),
            seconds=seconds,
        )
        return self._submitted("slow", engine, reply, reply["expected_ns"] / 1e9)

    def wait(self, job: Job, deadline: Deadline) -> Fence:
        """Wait until `job`'s fence signals or the deadline; a fence that does not is no error."""
        # The process waits a little less than we do, so that its answer still arrives.
        budget_ns = int(deadline.left() * 1e9)
        answer_by = Deadline(deadline.left() * 1.1 + 5.0)
        reply = self._workload.call("wait", answer_by, job=job.number, timeout_ns=budget_ns)
        self._keep(self._lines[job.number].ended(reply))
        return _fence(reply)

    def hang_and_wait(
        self, engine: Engine, deadline: Deadline, *names: str, own: bool = False
    ) -> tuple[Job, list[Waiter]]:
        """Hang, and at once wait for that job in every way the kernel has, or in those of these
        names: each in a thread that signals hit, and most in another that they do not.

        They give up at the deadline, as far as the kernel lets them; `own` is as `hang` says.
        """
        reply = self._workload.call(
            "waiters",
            Deadline(deadline.left() * 1.1 + self._limit_s),
            hang=self._asked(engine, None, None, None, own),
            timeout_ns=int(deadline.left() * 1e9),
            names=list(names),
        )
        job = self._submitted("hang", engine, reply["hang"])
        return job, [Waiter.told(one) for one in reply["waiters"]]

    def wait_behind(self, buffer: int, seconds: float) -> list[Waiter]:
        """Wait for the shared `buffer` in every way that has a timeout, each so long at most: in
        a thread that signals hit, and in another.  Times are from about the beginning."""
        reply = self._workload.call(
            "behind",
            Deadline(seconds * 1.1 + self._limit_s),
            writes=buffer,
            timeout_ns=int(seconds * 1e9),
        )
        return [Waiter.told(one) for one in reply["waiters"]]

    def hang_until(self, engine: Engine, end: Deadline, each_s: float) -> list[Fence]:
        """Hang after hang until `end`, one at least, each in a context of its own; what became of
        their fences.  One that is pending after `each_s` is the last."""
        ended: list[Fence] = []
        while not ended or (ended[-1].signaled and not end.expired()):
            job = self.hang(engine, context=self.context())
            ended.append(self.wait(job, Deadline(each_s)))
        return ended

    def release(self, job: Job) -> None:
        """End a hang from the CPU's side.  Raises UsageError where its recipe cannot be."""
        if not self._call("release", job=job.number)["released"]:
            raise UsageError(
                f"this hang on {job.engine.name} can only be ended by recovery",
                cure="choose another recipe",
            )

    def canary(self, engine: Engine, context: int | None = None) -> Canary:
        """Have the GPU write a value and look for it: proof that `engine` is usable."""
        reply = self._call("canary", engine=engine.ip, ring=engine.ring, context=self._in(context))
        fence = _fence(reply) if "signaled" in reply else None
        if fence is not None:
            self._keep(JobLine.submitted(self.pid, engine.name, "canary", reply).ended(reply))
        return Canary(reply["ok"], reply["stage"], reply["errname"], fence)

    def storm(
        self,
        engine: Engine,
        count: int,
        deadline: Deadline,
        *,
        seconds: float = 10.0,
        depth: int = 8,
    ) -> Storm:
        """At most `count` small jobs in at most `seconds`, `depth` of them in flight.

        Its jobs are in no line of their own; the deadline must leave time for the last
        ones, which a hang of another client may hold up.
        """
        reply = self._workload.call(
            "storm",
            deadline,
            engine=engine.ip,
            ring=engine.ring,
            count=count,
            depth=depth,
            seconds=seconds,
            timeout_ns=int(max(0.0, deadline.left() * 0.9 - seconds) * 1e9),
        )
        fences = [(one["context"], one["first"], one["submitted"]) for one in reply["fences"]]
        return Storm(
            reply["submitted"],
            reply["completed"],
            reply["pending"],
            reply["refused"],
            reply["errors"],
            reply["elapsed_ns"] / 1e9,
            tuple(fences),
        )

    def reset_state(self, context: int | None = None) -> frozenset[str]:
        """What the driver says of a context's part in resets: names of the flags set."""
        reply = self._call("reset_state", context=self._in(context))
        return frozenset(name for name, value in reply.items() if value is True)

    def hangs(self, context: int | None = None) -> int | None:
        """How many hangs the driver counts of a context; None where it only says whether."""
        raw = self._call("reset_state", context=self._in(context))["raw"]
        return int(raw[0]) if isinstance(raw, list) else None

    def stop(self) -> None:
        """Release what hangs and end the process.  Idempotent."""
        self._workload.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _asked(
        self,
        engine: Engine,
        recipe: str | None,
        context: int | None,
        writes: int | None,
        own: bool,
    ) -> dict[str, Any]:
        """The arguments of `hang`."""
        asked = {
            "engine": engine.ip,
            "ring": engine.ring,
            "recipe": recipe or self._backend.recipes(engine)[0],
            "context": self._in(context),
        }
        return {**asked, "writes": writes, "own": own}

    def _submitted(
        self, kind: Kind, engine: Engine, reply: Mapping[str, Any], expected_s: float = 0.0
    ) -> Job:
        job = Job(int(reply["job"]), engine, expected_s)
        line = JobLine.submitted(self.pid, engine.name, kind, reply)
        self._lines[job.number] = line
        self._keep(line)
        return job

    def _in(self, context: int | None) -> int:
        if context is not None:
            return context
        if self._context is None:
            self._context = self.context()
        return self._context

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._workload.call(op, Deadline(self._limit_s), **args)


def _fence(reply: Mapping[str, Any]) -> Fence:
    elapsed = reply["elapsed_ns"]
    return Fence(
        reply["signaled"],
        reply["error"],
        None if elapsed is None else elapsed / 1e9,
        reply.get("wait_error", 0),
        reply.get("woken_ns", 0) / 1e9,
    )
