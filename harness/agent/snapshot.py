"""What tracing cannot see: who is stuck where, holding what, and what the drivers say of fences.

Each entry is read by a child, bounded in size and time, and tells its own trouble.
bufinfo comes last: it takes every dma_resv lock, may so block for good, and signals
fences as a side effect (drivers/dma-buf/dma-buf.c, dma_buf_debug_show).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Callable

from . import fileio
from .errors import AgentError

__all__ = ["take"]

_FIRST = ("/sys/kernel/debug/sync/info",)
_LAST = "/sys/kernel/debug/dma_buf/bufinfo"
_NODES = "/dev/dri/"
_MAX_TASKS = 64
_STACK_LIMIT = 16 << 10
_KMSG = "/dev/kmsg"
# What sysrq-d prints first and last (kernel/locking/lockdep.c, debug_show_all_locks).
_SYSRQ = "/proc/sysrq-trigger"
_FIRST_LINE, _LAST_LINE = "Showing all locks held in the system", "====="
_RECORD = 8192
# Of one process; every mapping of a buffer in Python holds another descriptor of the node.
_MAX_FDINFO = 3


class _Budget:
    """What all entries may take together, and each of them alone."""

    def __init__(self, seconds: float, each: float, limit: int) -> None:
        self._end = time.monotonic() + seconds
        self._each = each
        self.limit = limit

    def seconds(self) -> float:
        """For the next entry; 0 when there is no time left."""
        return max(0.0, min(self._each, self._end - time.monotonic()))


def take(
    files: list[str], pids: list[int], seconds: float, each: float, limit: int
) -> dict[str, Any]:
    """See operations.snapshot; `pids` are the processes whose threads and DRM files are shown."""
    budget = _Budget(seconds, each, limit)
    began = time.monotonic_ns()
    stuck_tasks = _stuck(set(pids))
    tasks = [_task(*one, budget) for one in stuck_tasks[:_MAX_TASKS]]
    locks, no_locks = _locks(budget)
    entries = [_file(path, budget) for path in (*_FIRST, *files)]
    fdinfo = [_file(path, budget) for pid in pids for path in _drm_files(pid)]
    stuck = fileio.reap()
    if stuck:
        last = _failed(_LAST, f"not read: a reader (pid {stuck[0]}) is stuck in the kernel")
    else:
        last = _file(_LAST, budget)
    return {
        "mono": began,
        "tasks": tasks,
        "more_tasks": max(0, len(stuck_tasks) - _MAX_TASKS),
        "locks": locks,
        "no_locks": no_locks,
        "files": entries,
        "fdinfo": fdinfo,
        "bufinfo": last,
        "elapsed_ns": time.monotonic_ns() - began,
    }


def _file(path: str, budget: _Budget) -> dict[str, Any]:
    seconds = budget.seconds()
    if not seconds:
        return _failed(path, "not read: there was no time left")
    began = time.monotonic_ns()
    try:
        data, more = fileio.read(path, budget.limit, seconds)
    except AgentError as error:
        return _failed(path, error.what)
    return {
        "path": path,
        "text": data.decode("utf-8", "replace"),
        "truncated": more,
        "error": "",
        "ns": time.monotonic_ns() - began,
    }


def _failed(path: str, why: str) -> dict[str, Any]:
    return {"path": path, "text": "", "truncated": False, "error": why, "ns": 0}


def _stuck(ours: set[int]) -> list[tuple[int, int, str]]:
    """(pid, tid, state) of every thread in uninterruptible sleep, of every kernel worker at work
    that sleeps, and of all of `ours`; the first kind first.

    Only `stat` is read here, which takes no lock that a stuck task may hold.
    """
    found = []
    for name in sorted(os.listdir("/proc"), key=lambda one: (len(one), one)):
        if not name.isdigit():
            continue
        try:
            for tid in os.listdir(f"/proc/{name}/task"):
                with open(f"/proc/{name}/task/{tid}/stat", "rb") as file:
                    # comm is in parentheses and may hold both spaces and parentheses.
                    comm, _, rest = file.read().rpartition(b")")
                state = rest.split()[0].decode()
                # "kworker/u9:1+i915_flip": a plus while it works (workqueue.c, wq_worker_comm).
                worker = b"(kworker/" in comm and b"+" in comm and state != "R"
                if state == "D" or worker or int(name) in ours:
                    found.append((int(name), int(tid), state))
        except (OSError, IndexError):
            continue  # it ended meanwhile
    # A stack takes its time to read on a slow machine: those that cannot move come first.
    return sorted(found, key=lambda one: one[2] != "D")


def _task(pid: int, tid: int, state: str, budget: _Budget) -> dict[str, Any]:
    task: dict[str, Any] = {"pid": pid, "tid": tid, "state": state, "error": ""}
    task.update(dict.fromkeys(("comm", "wchan", "stack"), ""))
    seconds = budget.seconds()
    if not seconds:
        task["error"] = "not read: there was no time left"
        return task
    folder = f"/proc/{pid}/task/{tid}"
    try:
        task.update(json.loads(fileio.in_child(_reader(folder), folder, "read", seconds)))
    except AgentError as error:
        task["error"] = error.what
    return task


def _reader(folder: str) -> Callable[[], bytes]:
    def action() -> bytes:
        texts = {}
        for name in ("comm", "wchan", "stack"):
            with open(f"{folder}/{name}", "rb") as file:
                texts[name] = file.read(_STACK_LIMIT).decode("utf-8", "replace").rstrip("\n")
        return json.dumps(texts).encode()

    return action


def _locks(budget: _Budget) -> tuple[str, str]:
    """Lockdep's list of held locks, which goes to the kernel log, too; and why there is none."""
    seconds = budget.seconds()
    if not os.path.exists("/proc/lockdep_stats"):
        return "", "this kernel has no lockdep"
    if not seconds:
        return "", "not asked for: there was no time left"
    try:
        data = fileio.in_child(_lock_lister(seconds), _SYSRQ, "list of held locks", seconds)
    except AgentError as error:
        return "", error.what
    return data.decode("utf-8", "replace"), ""


def _lock_lister(seconds: float) -> Callable[[], bytes]:
    """Ask for the list and read it back from the log, until its end or until it stops."""

    def action() -> bytes:
        log = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(log, 0, os.SEEK_END)
        asked = os.open(_SYSRQ, os.O_WRONLY)
        os.write(asked, b"d")
        lines: list[str] = []
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end:
            try:
                record = os.read(log, _RECORD).decode("utf-8", "replace")
            except BlockingIOError:
                break  # it is written before the request returns: this is all
            # "level,sequence,...;text\n", and lines about the device behind it; in the text
            # line ends are escaped (kernel/printk/printk.c, msg_add_ext_text).
            text = record.partition(";")[2].partition("\n")[0].replace("\\x0a", "\n").strip("\n")
            if text.startswith(_FIRST_LINE):
                lines = []
            lines.append(text)
            if text.startswith(_LAST_LINE):
                break
        return "\n".join(lines).encode()

    return action


def _drm_files(pid: int) -> list[str]:
    """/proc/PID/fdinfo/N of its open DRM nodes (Documentation/gpu/drm-usage-stats.rst)."""
    paths: list[str] = []
    try:
        for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
            if len(paths) < _MAX_FDINFO and os.readlink(f"/proc/{pid}/fd/{fd}").startswith(_NODES):
                paths.append(f"/proc/{pid}/fdinfo/{fd}")
    except OSError:
        pass  # it ended meanwhile
    return paths
