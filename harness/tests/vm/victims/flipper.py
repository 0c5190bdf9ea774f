"""Hang after hang beside flips and other jobs; runs on the target, and prints JSON.

Arguments: the agent's zipapp, the render node, the primary node, the card's debugfs, then what
to do and with what: see `main`.  The job that hangs is a flip's in-fence, so that the flip is
pending across the reset.  Its own system calls are made once each, never again by libc or us.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

FLIP_S = 60.0
FOREVER = (1 << 63) - 1
STILL = 4  # every such round shows one picture across the reset, instead of a flip


class Jobs:
    """A client of the render node, by the agent's own workload."""

    def __init__(self, node: str) -> None:
        self._made = import_module("agent.workload.amdgpu").open_workload(node, "", 300.0, {})
        self._arguments = import_module("agent.arguments").Arguments

    def call(self, op: str, **values: Any) -> dict[str, Any]:
        """One of its operations."""
        reply: dict[str, Any] = self._made.perform(op, self._arguments(op, values))
        return reply

    @property
    def fd(self) -> int:
        """The render node."""
        return int(self._made._device.fd)

    def fence(self, job: int) -> int:
        """The sync file of a job."""
        return int(self._made._jobs[job].fence.fd)


def neighbour(node: str, engine: str, stop: threading.Event, told: Counter[str]) -> None:
    """Small jobs without a pause; a context whose job was lost is left for a new one."""
    jobs = Jobs(node)
    context = jobs.call("context")["context"]
    while not stop.is_set():
        reply = jobs.call("canary", engine=engine, context=context, timeout_ns=int(120e9))
        error = reply.get("error", 0)
        told[reply["stage"] and f"{reply['stage']} {reply['errname'] or error}"] += 1
        if not reply["ok"]:
            jobs.call("context.free", context=context)
            context = jobs.call("context")["context"]


def storm(node: str, primary: str, debugfs: str, rounds: int, engines: list[str]) -> dict[str, Any]:
    """`rounds` hangs in turn on `engines`; what became of jobs, flips and the picture."""
    kms = import_module("kms")
    display, crc, jobs = kms.Display(primary), kms.Crc(debugfs), Jobs(node)
    pictures: list[int] = []
    for picture in (1, 0):
        display.show(picture)
        pictures.insert(0, crc.settle(None, 10))
    stop, told = (
        threading.Event(),
        {engine: Counter[str]() for engine in ("gfx", "compute", "sdma")},
    )
    neighbours = [
        threading.Thread(target=neighbour, args=(node, engine, stop, told[engine]))
        for engine in told
    ]
    for thread in neighbours:
        thread.start()

    hangs, flips, still, shown = Counter[str](), Counter[str](), Counter[str](), 0
    for number in range(rounds):
        context = jobs.call("context")["context"]
        job = jobs.call("hang", engine=engines[number % len(engines)], context=context)["job"]
        flips_now = number % STILL != STILL - 1
        if flips_now:
            shown ^= 1
            result = display.flip(shown, kms.NONBLOCK | kms.EVENT, jobs.fence(job))
            flips["asked" if not result else f"error {result}"] += 1
            # On a slow machine the hang may be over by now.
            flips["pending"] += not jobs.call("status", job=job)["signaled"]
        hangs[str(jobs.call("wait", job=job, timeout_ns=int(120e9))["error"])] += 1
        if flips_now:
            flips["delivered" if display.flipped(FLIP_S) else "lost"] += 1
        else:
            same = crc.settle(pictures[shown]) == pictures[shown]
            still["same" if same else "changed"] += 1
        jobs.call("context.free", context=context)
    stop.set()
    for thread in neighbours:
        thread.join()
    return {"hangs": hangs, "flips": flips, "still": still, "neighbours": told}


def waits(node: str, primary: str, debugfs: str) -> dict[str, Any]:
    """One hang on gfx and all who wait for it: by WAIT_CS, by WAIT_FENCES, and by a commit
    that blocks under the modeset locks.  Of each: thread, result, was the fence signaled then."""
    kms = import_module("kms")
    display, crc, jobs = kms.Display(primary), kms.Crc(debugfs), Jobs(node)
    display.show(1)
    wanted = crc.settle(None, 10)
    display.show(0)
    context = jobs.call("context")["context"]
    job = jobs.call("hang", engine="gfx", context=context)
    one = kms.layout("u32 context ip instance ring; u64 sequence")(
        context, 0, 0, 0, job["sequence"]
    )
    many = kms.layout("u64 fences; u32 count all; u64 timeout")(
        ctypes.addressof(one), 1, 0, FOREVER
    )
    single = kms.layout("u64 sequence timeout; u32 ip instance ring context")(
        job["sequence"], FOREVER, 0, 0, 0, context
    )
    fd = jobs.fd
    calls: dict[str, Callable[[], int]] = {
        "wait_cs": lambda: kms.once(fd, 0x49, single),
        "wait_fences": lambda: kms.once(fd, 0x52, many),
        "commit": lambda: display.flip(1, 0, jobs.fence(job["job"])),
    }
    results: dict[str, Any] = {}

    def call(name: str) -> None:
        result = calls[name]()
        signaled = jobs.call("status", job=job["job"])["signaled"]
        results[name] = {
            "thread": threading.get_native_id(),
            "result": result,
            "signaled": signaled,
        }

    threads = [threading.Thread(target=call, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    early = jobs.call("status", job=job["job"])["signaled"]
    for thread in threads:
        thread.join()
    return {**results, "early": early, "restored": crc.settle(wanted) == wanted}


def main() -> None:
    """storm ROUNDS ENGINE... | waits"""
    zipapp, node, primary, debugfs, what, *rest = sys.argv[1:]
    sys.path.insert(0, zipapp)
    if what == "waits":
        result = waits(node, primary, debugfs)
    else:
        result = storm(node, primary, debugfs, int(rest[0]), rest[1:])
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
