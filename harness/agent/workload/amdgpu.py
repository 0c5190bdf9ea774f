"""The amdgpu workload: hangs a ring, proves one alive, tells how a fence ended.

Every hang that the CPU can end is ended `bailout` seconds after its start, by
a thread of this process, whatever else goes wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import AgentError, usage
from ..uapi import amdgpu as abi
from .amdgpu_device import Buffer, Device
from .amdgpu_job import POLLED, RELEASED, Port, Submitted
from .amdgpu_packets import RECIPES, pad, store
from .amdgpu_slow import Slow
from .amdgpu_waits import shared_waits, waits
from .hang import Hang
from .own_memory import SIZE, Page
from .parcel import Adopted, export
from .storm import MAX_DEPTH, Storm
from .waiters import Behind, Waiters

__all__ = ["AmdgpuWorkload", "open_workload"]

_TARGET = 2048
_IB_DWORDS = 16
_CANARY_SECONDS = 10.0
_STORM_WAIT_S = 60.0
_DEFAULT_RECIPE = {"gfx": "wait_reg_mem", "compute": "wait_reg_mem", "sdma": "poll_regmem"}


class AmdgpuWorkload:
    """Operations on one render node; see the methods' docstrings for the wire."""

    overtaking: frozenset[str] = frozenset({"release"})

    def __init__(self, device: Device, bailout: float) -> None:
        self._device = device
        self._bailout = bailout
        self._jobs: dict[int, Submitted] = {}
        self._hangs: list[Hang] = []
        self._context: int | None = None
        self._storm: Storm | None = None
        self._adopted = Adopted(device.adopt, lambda: export(device.fd, device.buffer().handle))
        self._numbers = itertools.count(1)
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
            "waiters": Waiters(self.hang, self._find, partial(waits, device)).perform,
            "behind": Behind(self._adopted.chosen, partial(shared_waits, device)).perform,
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
            raise usage(f"amdgpu has no operation {op}", cure=f"one of: {known}")
        return operation(arguments)

    def release_all(self) -> None:
        """As process.Workload says."""
        for hang in list(self._hangs):
            hang.release()

    def engines(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"driver": {"name", "major", "minor"}, "family", "external_rev", "chip_rev",
        "device_id", "pci_rev", "engines": [{"name", "ip_type", "version", "rings": [number],
        "available_rings", "recipes": [name, the releasable first]}]}.

        `family` is an AMDGPU_FAMILY_*; `rings` those that a job may name, while
        `available_rings` is the mask of the chip's own.
        """
        arguments.done()
        device = self._device
        return {
            "driver": device.version,
            "family": device.device.family,
            "external_rev": device.device.external_rev,
            "chip_rev": device.device.chip_rev,
            "device_id": device.device.device_id,
            "pci_rev": device.device.pci_rev,
            "engines": [
                {
                    "name": engine.name,
                    "ip_type": engine.ip_type,
                    "version": engine.version,
                    "rings": engine.rings,
                    "available_rings": engine.available_rings,
                    "recipes": [n for n, r in RECIPES.items() if engine.name in r.engines],
                }
                for engine in device.engines.values()
            ],
        }

    def context(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"context": id}."""
        arguments.done()
        return {"context": self._device.context()}

    def context_free(self, arguments: Arguments) -> dict[str, Any]:
        """{context} -> {}."""
        context = arguments.integer("context")
        arguments.done()
        self._device.free_context(context)
        return {}

    def hang(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, context = this process's own, ring = 0, recipe = the releasable one,
        syncobj = false, writes = none, own = false} -> {"job", "sequence", "submitted_ns",
        "releasable", "recipe", "context", "seqno"}.

        `submitted_ns` is CLOCK_MONOTONIC just before the submission; `context` and
        `seqno` are the fence's in the kernel, null where they cannot be told.  With
        `syncobj` the fence is taken from a syncobj instead of FENCE_TO_HANDLE.  `writes` is
        an adopted buffer: whoever shows or reads it waits for the job.  With `own` the job may
        write a page of this process's memory, too.
        """
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        recipe_name = arguments.text("recipe", _DEFAULT_RECIPE.get(name, ""))
        syncobj = arguments.flag("syncobj")
        written = self._adopted.chosen(arguments)
        page = Page() if arguments.flag("own") else None
        arguments.done()
        recipe = RECIPES.get(recipe_name)
        if recipe is None or name not in recipe.engines:
            fitting = ", ".join(n for n, r in RECIPES.items() if name in r.engines) or "none"
            raise usage(f"{recipe_name!r} does not hang {name}", cure=f"recipes: {fitting}")
        place = POLLED if recipe.releasable else None
        with contextlib.ExitStack() as undo:
            buffer = self._device.buffer()
            undo.callback(self._device.free, buffer)
            dwords = recipe.build(name, buffer.address + POLLED, buffer.address + _TARGET)
            hang = Hang(buffer.memory, place, RELEASED, self._bailout)
            self._hangs.append(hang)
            undo.callback(self._hangs.remove, hang)
            undo.callback(hang.end)
            named = [] if written is None else [written]
            if page is not None:
                named.append(self._device.own(page.address, SIZE))
            submitted = self._submit(name, ring, context, buffer, dwords, hang, syncobj, named)
            submitted = submitted._replace(page=page)
            undo.pop_all()
        number = next(self._numbers)
        self._jobs[number] = submitted
        return {
            "job": number,
            "sequence": submitted.job.sequence,
            "submitted_ns": submitted.at,
            "releasable": recipe.releasable,
            "recipe": recipe_name,
            "context": submitted.identity[0],
            "seqno": submitted.identity[1],
        }

    def slow(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, context = this process's own, ring = 0, seconds} -> {"job", "sequence",
        "submitted_ns", "expected_ns", "context", "seqno"}.

        A job that ends by itself after about `seconds`, which small ones before it tell how to
        reach; sooner where one job cannot be so long: `expected_ns` says when.
        """
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        seconds = arguments.seconds("seconds")
        arguments.done()
        slow = Slow(self._device, context, self._device.engine(name, ring), ring)
        submitted, expected = slow.submit(seconds)
        number = next(self._numbers)
        self._jobs[number] = submitted
        return {
            "job": number,
            "sequence": submitted.job.sequence,
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
        reply), fence (late, or with an error), value (not written); "" when ok.
        """
        name = arguments.text("engine")
        context = self._chosen(arguments)
        ring = arguments.integer("ring", 0)
        timeout = arguments.integer("timeout_ns", int(_CANARY_SECONDS * 1e9))
        arguments.done()
        buffer = self._device.buffer()
        expected = next(self._values) & 0xFFFFFFFF
        dwords = store(name, buffer.address + _TARGET, expected, self._device.minus_one)
        try:
            submitted = self._submit(name, ring, context, buffer, dwords, None, False)
        except AgentError as error:
            self._device.free(buffer)
            if error.number is None:
                raise
            return {"ok": False, "stage": "submit", "errname": error.wire()["errname"]}
        result = self._wait(submitted, timeout)
        value = struct.unpack_from("<I", buffer.memory, _TARGET)[0]
        stage = ""
        if not result["signaled"] or result["error"]:
            stage = "fence"
        elif value != expected:
            stage = "value"
        submitted.fence.close()
        if result["signaled"]:
            self._device.free(buffer)
        return {
            "job": next(self._numbers),
            "ok": not stage,
            "stage": stage,
            "errname": "",
            "value": value,
            "expected": expected,
            **result,
        }

    def wait(self, arguments: Arguments) -> dict[str, Any]:
        """{job, timeout_ns, via = wait_cs|poll} -> {"context", "seqno", "signaled", "error",
        "elapsed_ns", "timestamp_ns", "submitted_ns", "released_ns", "wait_error", "woken_ns",
        "fences"}.

        `error` is the fence's, negative as in the kernel (-62 ETIME), 0 for none;
        `elapsed_ns` from submission to the fence's own timestamp, null while it
        is pending; `wait_error` what WAIT_CS itself returned, negative;
        `waited_ns` when the wait began and `woken_ns` when it ended, from submission;
        `released_ns` when the CPU ended it, null if it did not.
        """
        submitted = self._find(arguments)
        timeout = arguments.integer("timeout_ns")
        via = arguments.text("via", "wait_cs")
        arguments.done()
        if via not in ("wait_cs", "poll") or timeout < 0:
            raise usage("wait: via is wait_cs or poll, timeout_ns not negative")
        return self._wait(submitted, timeout, via)

    def storm(self, arguments: Arguments) -> dict[str, Any]:
        """{engine, ring = 0, count, depth = 8, seconds = 10, timeout_ns = 60 s} -> {"submitted",
        "completed", "pending", "refused", "errors": {errno's name: jobs}, "elapsed_ns",
        "fences": [{"context", "first", "submitted"}]}.

        At most `count` small jobs in at most `seconds`, `depth` of them in flight, as
        fast as one thread can.  `completed` counts those that ended with an error, too;
        `pending` did not end within `timeout_ns` of their turn; `refused` were never
        jobs, since a reset had killed their context, which is then replaced.  `fences`
        are the kernel's fence contexts in order, with the seqno of the first job in
        each (both null where they cannot be told) and how many jobs it had.
        """
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

        def fill(address: int) -> list[int]:
            dwords = store(name, address + _TARGET, 1, self._device.minus_one)
            return pad(name, dwords, max(_IB_DWORDS, engine.ib_size_alignment // 4))

        if self._storm is None or self._storm.place != (engine, ring, depth):
            if self._storm is not None:
                self._storm.close()
                self._storm = None
            port = Port(self._device, engine, ring, fill)
            self._storm = Storm(port, (engine, ring, depth), depth)
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
        """{context = this process's own} -> {"raw", and true or false for each of "reset",
        "vramlost", "guilty", "ras_ce", "ras_ue", "reset_in_progress"}."""
        context = self._chosen(arguments)
        arguments.done()
        raw = self._device.reset_state(context)
        return {"raw": raw, **{name: bool(raw & bit) for name, bit in abi.CTX_FLAGS.items()}}

    def _chosen(self, arguments: Arguments) -> int:
        """The context asked for, or this process's own, made when first needed."""
        context: int | None = arguments.integer("context", None)
        if context is None:
            if self._context is None:
                self._context = self._device.context()
            context = self._context
        return context

    def _submit(
        self,
        name: str,
        ring: int,
        context: int,
        buffer: Buffer,
        dwords: list[int],
        hang: Hang | None,
        syncobj: bool,
        written: Sequence[int] = (),
    ) -> Submitted:
        engine = self._device.engine(name, ring)
        dwords = pad(name, dwords, max(_IB_DWORDS, engine.ib_size_alignment // 4))
        container = self._device.syncobj() if syncobj else 0
        at = time.monotonic_ns()
        job = self._device.submit(context, engine, ring, buffer, dwords, container, written)
        fence = self._device.syncobj_fence(container) if syncobj else self._device.fence(job)
        return Submitted(job, fence, at, hang, fence.identity(), buffer.handle)

    def _find(self, arguments: Arguments) -> Submitted:
        number = arguments.integer("job")
        submitted = self._jobs.get(number)
        if submitted is None:
            raise usage(f"no job {number}", cure="see what hang returned")
        return submitted

    def _wait(self, submitted: Submitted, timeout_ns: int, via: str = "wait_cs") -> dict[str, Any]:
        waited, wait_error = time.monotonic_ns() - submitted.at, 0
        if via == "poll":
            submitted.fence.wait(timeout_ns)
        else:
            try:
                self._device.wait(submitted.job, time.monotonic_ns() + timeout_ns)
            except AgentError as error:
                if error.number is None:
                    raise
                wait_error = -error.number
        woken = time.monotonic_ns() - submitted.at
        return {**submitted.outcome(wait_error), "waited_ns": waited, "woken_ns": woken}


def open_workload(
    node: str, primary: str, bailout: float, passed: Mapping[str, int]
) -> AmdgpuWorkload:
    """The workload on render node `node`.  Raises AgentError."""
    if not node:
        raise usage("amdgpu needs a render node", cure="pass node: /dev/dri/renderD128 or another")
    return AmdgpuWorkload(Device(node), bailout)
