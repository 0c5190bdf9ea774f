"""All workload processes of a session: start, find, stop.

The agent opens what only root may open and hands the descriptors over; the
process itself holds nothing but the render node's group.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Callable

from .archive import Archive
from .child import Child
from .credentials import credentials
from .errors import AgentError, lab, target, usage

__all__ = ["Workloads"]

_START_LIMIT = 30.0


class Workloads:
    """Started workloads by their number."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._children: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._next = 1
        self._closed = False

    def start(
        self,
        driver: str,
        node: str,
        primary: str,
        user: str | int | None,
        passed: list[str],
        bailout: float,
        diary: Callable[[bytes], Any],
    ) -> dict[str, Any]:
        """{"workload": number, "pid", "ready": what the process says of itself}.

        `node` is the render node, `primary` the primary node of a display client
        or "".  Raises AgentError.
        """
        who = credentials(user, [path for path in (node, primary) if path])
        arguments = ["workload", driver, "--bailout", str(bailout)]
        if node:
            arguments += ["--node", node]
        if primary:
            arguments += ["--primary", primary]
        opened: list[int] = []
        try:
            for path in passed:
                opened.append(_open(path))
                arguments += ["--pass", f"{path}={opened[-1]}"]
            argv, fd = self._archive.command(*arguments)
            with self._lock:
                if self._closed:
                    raise target("the agent is ending", cure="start another")
                number = self._next
                self._next += 1
                child = Child(argv, [fd, *opened], who, f"{driver} workload {number}", diary)
                self._children[number] = child
        finally:
            for fd in opened:
                os.close(fd)
        try:
            ready = child.ready(_START_LIMIT)
            _check(ready, who.uid)
        except AgentError:
            self.stop(number)
            raise
        return {"workload": number, "pid": child.process.pid, "ready": ready}

    def call(
        self, number: int, op: str, arguments: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """One operation of workload `number`.  Raises AgentError."""
        return self._find(number).call(op, arguments, seconds)

    def pids(self) -> list[int]:
        """The processes that run."""
        with self._lock:
            return [child.process.pid for child in self._children.values()]

    def stop(self, number: int) -> dict[str, Any]:
        """End one; see Child.stop.  Raises AgentError (usage) for a number not started."""
        child = self._find(number)
        report = child.stop()
        with self._lock:
            self._children.pop(number, None)
        return report

    def close(self) -> list[dict[str, Any]]:
        """End all, at the same time, and start none any more; their reports."""
        with self._lock:
            self._closed = True
            children = dict(self._children)
            self._children.clear()
        reports: list[dict[str, Any]] = []
        threads = []
        for number, child in children.items():

            def end(number: int = number, child: Child = child) -> None:
                reports.append({"workload": number, **child.stop()})

            threads.append(threading.Thread(target=end, daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return reports

    def _find(self, number: int) -> Child:
        with self._lock:
            child = self._children.get(number)
            if child is None:
                running = ", ".join(map(str, self._children)) or "none"
                raise usage(f"no workload {number}", cure=f"running: {running}")
            return child


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise target(
            f"cannot be opened to be passed on: {error.strerror}",
            path,
            "check that debugfs is mounted and this kernel has it (sw_sync: CONFIG_SW_SYNC)",
            error.errno,
        ) from error


def _check(ready: dict[str, Any], uid: int) -> None:
    """The promise not to run as root is checked where it counts: in the process itself."""
    uids = set(ready.get("uids", []))
    if uids != {uid} or 0 in ready.get("gids", [0]) or 0 in ready.get("groups", []):
        raise lab(f"the workload kept privileges: {ready}", cure="this is a bug in the agent")
    if not ready.get("no_new_privs"):
        raise lab("the workload may gain privileges", cure="this is a bug in the agent")
