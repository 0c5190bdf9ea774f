"""The i915 workload: hangs an engine, proves one alive, tells how a fence ended.

Every hang that the CPU can end is ended `bailout` seconds after its start, by
a thread of this process, whatever else goes wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import AgentError, usage
from .hang import Hang
from .i915_batches import END, TARGET
from .i915_device import Device
from .i915_job import Context, Port, Submitted
from .i915_recipes import RECIPES, draws, recipes, writing
from .i915_slow import Slow
from .i915_waits import shared_waits, waits
from .own_memory import SIZE, Page
from .parcel import Adopted, export
from .storm import MAX_DEPTH, Storm
from .waiters import Behind, Waiters

__all__ = ["I915Workload", "open_workload"]

_CANARY_SECONDS = 10.0
_STORM_WAIT_S = 60.0


class I915Workload:
    """Operations on one render node; see the methods' docstrings for the wire.

    Where the chip has no contexts each is an open file of its own: that is what the driver
    counts hangs by then.  So a context's number here is ours.
    """

    overtaking: frozenset[str] = frozenset({"release"})

    def __init__(self, device: Device, bailout: float) -> None:
        self._device = device
        self._bailout = bailout
        self._jobs: dict[int, Submitted] = {}
        self._hangs: list[Hang] = []
        self._contexts: dict[int, Context] = {}
        self._own: int | None = None
        self._used = False
        self._storm: Storm | None = None
        # Handles are a file's, so of what is adopted the dma-buf itself is kept.
        self._adopted = Adopted(os.dup, lambda: export(device.fd, device.buffer().handle))
        self._numbers = itertools.count(1)
        self._context_numbers = itertools.count(1)
        self._values = itertools.count(0xCA9A0001)
        self._operations: Mapping[str, Callable[[Arguments], dict[str, Any]]] = {
            "engines": self.engines,
            "context": self.context,
            "context.free": self.context_free,
            "inbox": self._adopted.inbox,
            "adopt": self._adopted.adopt,
            "lend": self._adopted.lend,
            "hang": self.hang,
            "slow": self.slow,
            "canary": self.canary,
            "wait": self.wait,
            "waiters": Waiters(self.hang, self._find, waits).perform,
            "behind": Behind(self._shared, partial(shared_waits, device)).perform,
            "storm": self.storm,
            "status": self.status,
            "release": self.release,
            "reset_state": self.reset_state,
        }

    def perform(self, op: str, arguments: Arguments) -> dict[str, Any]:
        """As process.Workload says."""
        operation = self._operations.get(op)
        if operation is None:
            known = ", ".join(self._operations)
            raise usage(f"i915 has no operation {op}", cure=f"one of: {known}")
        return operation(arguments)

    def release_all(self) -> None:
        """As process.Workload says."""
        for hang in list(self._hangs):
            hang.release()

    def engines(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"driver": {"name", "major", "minor"}, "device_id", "pci_rev", "generation",
        "gpu_reset", "ppgtt", "contexts", "softpin", "queried", "engines": [{"name", "class",
        "instance", "recipes": [name, the safest first], "slow": whether it takes slow jobs}]}.

        `generation` is 8 for all later ones; `gpu_reset` is 0 none, 1 the whole GPU, 2 engines;
        `queried`: the engines are those of QUERY, not guessed from GETPARAM.
        """
        arguments.done()
        device = self._device
        return {
            "driver": device.version,
            "device_id": device.device_id,
            "pci_rev": device.revision,
            "generation": device.generation,
            "gpu_reset": device.gpu_reset,
            "ppgtt": device.ppgtt,
            "contexts": device.contexts,
            "softpin": device.softpin,
            "queried": device.queried,
            "engines": [
                {
                    "name": engine.name,
                    "class": engine.number,
                    "instance": engine.instance,
                    "recipes": recipes(device.generation, device.ppgtt),
                    "slow": draws(device.generation, engine.kind),
                }
                for engine in device.engines.values()
            ],
        }

    def context(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"context": number}."""
        arguments.done()
        return {"context": self._new_context()}

    def context_free(self, arguments: Arguments) -> dict[str, Any]:
        """{context} -> {}.  Its jobs are forgotten; a hang that the CPU can end is ended."""
        number = arguments.integer("context")
        arguments.done()
        self._context(number)
        self._free_context(number)
        return {}

    def hang(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, context = this process's own, ring = 0, recipe = the safest,
        writes = null, own = false} -> {"job", "submitted_ns", "releasable", "recipe", "context",
        "seqno"}.

        `submitted_ns` is CLOCK_MONOTONIC just before the submission; `context` and
        `seqno` are the fence's in the kernel, null where they cannot be told.  With
        `writes`, the number of an adopted buffer, whoever uses that waits for the job; with `own`
        the job may write a page of this process's memory, too.
        """
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        shared = self._adopted.chosen(arguments)
        fitting = recipes(self._device.generation, self._device.ppgtt)
        recipe_name = arguments.text("recipe", fitting[0])
        page = Page() if arguments.flag("own") else None
        arguments.done()
        if recipe_name not in fitting:
            raise usage(
                f"{recipe_name!r} does not hang {name}", cure=f"recipes: {', '.join(fitting)}"
            )
        device = context.device
        engine = device.engine(name, ring)
        recipe = RECIPES[recipe_name]
        written = [] if shared is None else [device.adopt(shared)]
        if page is not None:
            written.append(device.own(page.address, SIZE))
        batch = partial(recipe.build, device.generation)
        with contextlib.ExitStack() as undo:
            buffer = device.buffer()
            undo.callback(device.free, buffer)
            place = batch(buffer.address).release
            hang = Hang(buffer.memory, place, END, self._bailout)
            undo.callback(self._forget, hang)
            self._hangs.append(hang)
            command = device.command(engine, buffer, batch, written=written)
            submitted = context.submit(command, hang)._replace(page=page)
            undo.pop_all()
        number = next(self._numbers)
        self._jobs[number] = submitted
        return {
            "job": number,
            "submitted_ns": submitted.at,
            "releasable": recipe.releasable,
            "recipe": recipe_name,
            "context": submitted.identity[0],
            "seqno": submitted.identity[1],
        }

    def slow(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, context = this process's own, ring = 0, seconds} -> {"job", "submitted_ns",
        "expected_ns", "context", "seqno"}, all as amdgpu's."""
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        seconds = arguments.seconds("seconds")
        arguments.done()
        slow = Slow(context, context.device.engine(name, ring))
        submitted, expected = slow.submit(seconds)
        number = next(self._numbers)
        self._jobs[number] = submitted
        return {
            "job": number,
            "submitted_ns": submitted.at,
            "expected_ns": expected,
            "context": submitted.identity[0],
            "seqno": submitted.identity[1],
        }

    def canary(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, context = this process's own, ring = 0, timeout_ns = 10 s}
        -> {"job", "ok", "stage", "errname", "value", "expected"} and what `wait` gives.

        The GPU writes a value that the CPU then looks for.  `stage` is where it
        failed: submit (refused, `errname` says why, and there is nothing more in the
        reply), fence (late, or with an error), value (not written); "" when ok.  `value`
        and `expected` are null on an engine that cannot write: its fence must do.
        """
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        timeout = arguments.integer("timeout_ns", int(_CANARY_SECONDS * 1e9))
        arguments.done()
        device = context.device
        engine = device.engine(name, ring)
        expected = next(self._values) & 0xFFFFFFFF
        writes, build = writing(self._device.device_id, engine.kind, expected)
        with contextlib.ExitStack() as undo:
            buffer = device.buffer()
            undo.callback(device.free, buffer)
            page = device.buffer()
            undo.callback(device.free, page)
            try:
                command = device.command(engine, buffer, build, target=page if writes else None)
                submitted = context.submit(command, None)
            except AgentError as error:
                if error.number is None:
                    raise
                return {"ok": False, "stage": "submit", "errname": error.wire()["errname"]}
            undo.pop_all()
        result = self._wait(submitted, timeout)
        stage, value = "", None
        if not result["signaled"] or result["error"]:
            stage = "fence"
        elif writes:
            device.look(page)
            value = struct.unpack_from("<I", page.memory, TARGET)[0]
            stage = "" if value == expected else "value"
        submitted.fence.close()
        if result["signaled"]:
            device.free(buffer)
            device.free(page)
        return {
            "job": next(self._numbers),
            "ok": not stage,
            "stage": stage,
            "errname": "",
            "value": value,
            "expected": expected if writes else None,
            **result,
        }

    def wait(self, arguments: Arguments) -> dict[str, Any]:
        """{job, timeout_ns, via = gem_wait|poll} -> {"context", "seqno", "signaled", "error",
        "elapsed_ns", "timestamp_ns", "submitted_ns", "released_ns", "wait_error", "waited_ns",
        "woken_ns", "fences"}.

        `error` is the fence's, negative as in the kernel (-5 EIO), 0 for none;
        `elapsed_ns` from submission to the fence's own timestamp, null while it
        is pending; `wait_error` what GEM_WAIT itself returned, negative;
        `waited_ns` when the wait began and `woken_ns` when it ended, from submission;
        `released_ns` when the CPU ended it, null if it did not.
        """
        submitted = self._find(arguments)
        timeout = arguments.integer("timeout_ns")
        via = arguments.text("via", "gem_wait")
        arguments.done()
        if via not in ("gem_wait", "poll") or timeout < 0:
            raise usage("wait: via is gem_wait or poll, timeout_ns not negative")
        return self._wait(submitted, timeout, via)

    def storm(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, ring = 0, count, depth = 8, seconds = 10, timeout_ns = 60 s} -> {"submitted",
        "completed", "pending", "refused", "errors": {errno's name: jobs}, "elapsed_ns",
        "fences": [{"context", "first", "submitted"}]}, all as amdgpu's."""
        name = arguments.text("engine")
        ring = arguments.integer("ring", 0)
        count = arguments.integer("count")
        depth = arguments.integer("depth", 8)
        seconds = arguments.seconds("seconds", 10.0)
        timeout = arguments.integer("timeout_ns", int(_STORM_WAIT_S * 1e9))
        arguments.done()
        if not 0 < depth <= MAX_DEPTH or count < 1 or timeout < 0:
            raise usage(f"storm: depth is from 1 to {MAX_DEPTH}, count at least 1")
        engine = self._device.engine(name, ring)
        if self._storm is None or self._storm.place != (engine, depth):
            if self._storm is not None:
                self._storm.close()
                self._storm = None
            port = Port(
                self._fresh, self._device, engine, *writing(self._device.device_id, engine.kind, 1)
            )
            self._storm = Storm(port, (engine, depth), depth)
        return self._storm.run(count, seconds, timeout)

    def status(self, arguments: Arguments) -> dict[str, Any]:
        """{job} -> what `wait` gives, without waiting."""
        submitted = self._find(arguments)
        arguments.done()
        return submitted.outcome(0)

    def release(self, arguments: Arguments) -> dict[str, Any]:
        """{job} -> {"released": whether this hang can be ended by the CPU}.  Overtakes a wait."""
        submitted = self._find(arguments)
        arguments.done()
        return {"released": submitted.hang is not None and submitted.hang.release()}

    def reset_state(self, arguments: Arguments) -> dict[str, Any]:
        """{context = this process's own} -> {"raw": [its batches that hung, its batches that
        the hang of another took along], "guilty", "innocent"}."""
        context = self._chosen(arguments)
        arguments.done()
        hung, taken = context.device.reset_stats(context.id)
        return {"raw": [hung, taken], "guilty": hung > 0, "innocent": taken > 0}

    def _shared(self, arguments: Arguments) -> int | None:
        """The handle here of the adopted buffer that the arguments name, if any."""
        shared = self._adopted.chosen(arguments)
        return None if shared is None else self._device.adopt(shared)

    def _chosen(self, arguments: Arguments) -> Context:
        """The context asked for, or this process's own, made when first needed."""
        number: int | None = arguments.integer("context", None)
        if number is None:
            if self._own is None:
                self._own = self._new_context()
            number = self._own
        return self._context(number)

    def _context(self, number: int) -> Context:
        context = self._contexts.get(number)
        if context is None:
            raise usage(f"no context {number}", cure="see what context returned")
        return context

    def _new_context(self) -> int:
        number = next(self._context_numbers)
        self._contexts[number] = self._fresh()
        return number

    def _fresh(self) -> Context:
        """A context that no hang has been held against yet."""
        if self._device.contexts:
            return Context(self._device, self._device.context())
        used, self._used = self._used, True
        return Context(Device(self._device.node) if used else self._device, 0)

    def _free_context(self, number: int) -> None:
        context = self._contexts.pop(number)
        if self._own == number:
            self._own = None
        for job, submitted in list(self._jobs.items()):
            if submitted.context == context:
                del self._jobs[job]
                if submitted.hang is not None:
                    self._forget(submitted.hang)
                submitted.fence.close()
                context.device.free(submitted.job.buffer)
        context.free(keep=self._device)

    def _forget(self, hang: Hang) -> None:
        hang.end()
        self._hangs.remove(hang)

    def _find(self, arguments: Arguments) -> Submitted:
        number = arguments.integer("job")
        submitted = self._jobs.get(number)
        if submitted is None:
            raise usage(
                f"no job {number}", cure="see what hang returned, and that its context is not freed"
            )
        return submitted

    def _wait(self, submitted: Submitted, timeout_ns: int, via: str = "gem_wait") -> dict[str, Any]:
        waited, wait_error = time.monotonic_ns() - submitted.at, 0
        if via == "poll":
            submitted.fence.wait(timeout_ns)
        else:
            try:
                submitted.context.device.wait(submitted.job, time.monotonic_ns() + timeout_ns)
            except AgentError as error:
                if error.number is None:
                    raise
                wait_error = -error.number
        woken = time.monotonic_ns() - submitted.at
        return {**submitted.outcome(wait_error), "waited_ns": waited, "woken_ns": woken}


def open_workload(
    node: str, primary: str, bailout: float, passed: Mapping[str, int]
) -> I915Workload:
    """The workload on render node `node`.  Raises AgentError."""
    if not node:
        raise usage("i915 needs a render node", cure="pass node: /dev/dri/renderD128 or another")
    return I915Workload(Device(node), bailout)
