"""The workload process: JSON requests on stdin, replies on stdout, one at a time.

Releases overtake: they are done on the thread that reads, while the main
thread may still be waiting for the very job that is to be released.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from ..arguments import Arguments
from ..credentials import describe, forbid_new_privileges
from ..errors import AgentError, target, usage
from . import COMM

__all__ = ["Workload", "run"]


class Workload(Protocol):
    """What a driver's module makes in `open_workload(node, primary, bailout, passed)`."""

    overtaking: frozenset[str]
    """Operations safe to perform beside another that waits."""

    def perform(self, op: str, arguments: Arguments) -> dict[str, Any]:
        """One operation's result.  Raises AgentError or OSError."""

    def release_all(self) -> None:
        """End every hang whose recipe lets the CPU end it.  From any thread; idempotent."""


def run(
    driver: str,
    *,
    node: str,
    primary: str,
    bailout: float,
    passed: Mapping[str, int],
    drivers: Mapping[str, str],
) -> int:
    """Serve until stdin ends; the exit status."""
    forbid_new_privileges()
    # So that whoever reads a trace or `ps` there knows whose process this is.
    with open("/proc/self/comm", "wb") as comm:
        comm.write(f"{COMM}{driver}".encode()[:15])
    replies = _Replies()
    try:
        workload = _open(driver, node, primary, bailout, passed, drivers)
    except (AgentError, OSError) as error:
        replies.failed(0, error)
        return 4

    def terminated(_number: int, _frame: Any) -> None:
        workload.release_all()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's business
    requests: Any = queue.SimpleQueue()
    threading.Thread(
        target=_read, args=(workload, replies, requests), name="requests", daemon=True
    ).start()
    replies.done(0, {"driver": driver, "node": node, "pid": os.getpid(), **describe()})
    while True:
        request: dict[str, Any] | None = requests.get()
        if request is None:
            return 0
        _perform(workload, replies, request)


def _open(
    driver: str,
    node: str,
    primary: str,
    bailout: float,
    passed: Mapping[str, int],
    drivers: Mapping[str, str],
) -> Workload:
    name = drivers.get(driver)
    if name is None:
        known = ", ".join(sorted(drivers))
        raise usage(f"no workload for driver {driver}", node, f"one of: {known}")
    module = importlib.import_module(name, __package__)
    workload: Workload = module.open_workload(node, primary, bailout, passed)
    return workload


def _read(workload: Workload, replies: _Replies, requests: Any) -> None:
    """The reading thread.  At the end of stdin (the agent is gone) nothing may stay hung."""
    try:
        for line in sys.stdin.buffer:
            request = _parse(line, replies)
            if request is None:
                continue
            if request["op"] in workload.overtaking:
                _perform(workload, replies, request)
            else:
                requests.put(request)
    finally:
        workload.release_all()
        requests.put(None)


def _parse(line: bytes, replies: _Replies) -> dict[str, Any] | None:
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        replies.failed(None, usage(f"not a request: {line[:200]!r}"))
        return None
    if not isinstance(request.get("args", {}), dict):
        replies.failed(request.get("id"), usage("args is not an object"))
        return None
    return request


def _perform(workload: Workload, replies: _Replies, request: dict[str, Any]) -> None:
    op = request["op"]
    try:
        arguments = Arguments(op, request.get("args", {}))
        replies.done(request.get("id"), workload.perform(op, arguments))
    except (AgentError, OSError) as error:
        replies.failed(request.get("id"), error)


class _Replies:
    """Lines on what was stdout; prints of anything else go to stderr."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def done(self, number: Any, result: dict[str, Any]) -> None:
        self._send({"id": number, "ok": True, "result": result})

    def failed(self, number: Any, error: Exception) -> None:
        if not isinstance(error, AgentError):
            number_, name = getattr(error, "errno", None), getattr(error, "filename", None)
            error = target(str(error), str(name or ""), "see the kernel log", number_)
        self._send({"id": number, "ok": False, "error": error.wire()})

    def _send(self, reply: dict[str, Any]) -> None:
        view = memoryview(json.dumps(reply).encode() + b"\n")
        with self._lock:
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
            except BrokenPipeError:
                pass  # the agent is gone; the end of stdin says so, too
