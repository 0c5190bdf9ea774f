"""Files of procfs, sysfs and debugfs, each touched by a child with a time limit.

Reading amdgpu_gpu_recover waits for a whole recovery, and in the deadlocks this
harness looks for, forever and unkillably.  A thread stuck like that would keep
the agent's own pipes open after its death; a forked child holds none of them.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
import time
from typing import Callable

from .errors import AgentError, target

__all__ = ["MAX_READ", "in_child", "list_directory", "read", "reap", "write"]

MAX_READ = 8 << 20
"""Bytes: with base64 this still fits a frame."""

_STATUS = struct.Struct(">i")
_PIECE = 1 << 16
_left_behind: set[int] = set()
_left_lock = threading.Lock()


def read(path: str, limit: int, seconds: float, offset: int = 0) -> tuple[bytes, bool]:
    """At most `limit` bytes from `offset`, and whether there was more.

    Raises AgentError (target) with the errno, or when `seconds` have passed.
    """

    def action() -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        data = bytearray()
        while len(data) <= limit:
            piece = os.read(fd, min(_PIECE, limit + 1 - len(data)))
            if not piece:
                break
            data += piece
        return bytes(data)

    data = in_child(action, path, "read", seconds)
    return data[:limit], len(data) > limit


def write(path: str, data: bytes, seconds: float, append: bool = False) -> int:
    """Write `data` in one write, as procfs and sysfs want it; the bytes taken.

    Opens the file as a shell's `>` does, or `>>` with `append`: tracefs' lists
    (set_event, set_ftrace_filter) are emptied by the one and not by the other.
    Never creates a file.  Raises AgentError (target) as `read` does.
    """

    how = os.O_APPEND if append else os.O_TRUNC

    def action() -> bytes:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | how)
        return _STATUS.pack(os.write(fd, data))

    taken: int = _STATUS.unpack(in_child(action, path, "write", seconds))[0]
    return taken


def list_directory(path: str, seconds: float) -> list[str]:
    """The sorted names in a directory.  Raises AgentError (target) as `read` does."""

    def action() -> bytes:
        return b"\0".join(sorted(os.fsencode(name) for name in os.listdir(path)))

    data = in_child(action, path, "list", seconds)
    return [os.fsdecode(name) for name in data.split(b"\0")] if data else []


def reap() -> list[int]:
    """Collect children that were given up on and have ended since; pids still stuck."""
    with _left_lock:
        for pid in list(_left_behind):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    _left_behind.discard(pid)
            except ChildProcessError:
                _left_behind.discard(pid)
        return sorted(_left_behind)


def _child(action: Callable[[], bytes], out: int) -> None:
    """The child's whole life.  Only system calls: other threads' locks may be held."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(out, 0)
        os.dup2(out, 1)
        os.closerange(3, 1 << 16)
        try:
            answer = _STATUS.pack(0) + action()
        except OSError as error:
            answer = _STATUS.pack(error.errno or -1)
        view = memoryview(answer)
        while view:
            view = view[os.write(1, view) :]
        status = 0
    finally:
        os._exit(status)


def in_child(action: Callable[[], bytes], path: str, verb: str, seconds: float) -> bytes:
    """What `action` returns in a forked child, which may only raise OSError.

    Raises AgentError (target), in which `verb` and `path` say what was tried.
    """
    reap()
    receive, send = os.pipe()
    end = time.monotonic() + seconds
    try:
        pid = os.fork()
        if pid == 0:
            _child(action, send)
    finally:
        os.close(send)
    try:
        answer = _gather(receive, end)
    finally:
        os.close(receive)
    if answer is None:
        stuck = _kill(pid)
        state = ", and its reader cannot be killed: it is stuck in the kernel" if stuck else ""
        raise target(
            f"the {verb} did not return within {seconds:g} s{state}",
            path,
            "raise its time limit; if it should be quick, see the kernel log for a hung task",
        )
    os.waitpid(pid, 0)
    if len(answer) < _STATUS.size:
        raise target(f"the {verb} was killed", path, "see the kernel log for an oops or OOM")
    number = _STATUS.unpack_from(answer)[0]
    if number:
        raise _failed(verb, path, number)
    return answer[_STATUS.size :]


def _gather(fd: int, end: float) -> bytes | None:
    """Everything up to the end of the pipe; None when the time came first."""
    data = bytearray()
    while True:
        ready = select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]
        if not ready:
            return None
        piece = os.read(fd, _PIECE)
        if not piece:
            return bytes(data)
        data += piece


def _kill(pid: int) -> bool:
    """Kill a child; True when it does not even die of SIGKILL within half a second."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.01)
    with _left_lock:
        _left_behind.add(pid)
    return True


def _failed(verb: str, path: str, number: int) -> AgentError:
    cures = {
        2: "check the path; debugfs may not be mounted, or this kernel lacks the file",
        13: "run the agent as root",
        1: "run the agent as root; a locked-down kernel forbids it altogether",
        22: "the kernel does not take this value",
    }
    cure = cures.get(number, "see the kernel log")
    return target(f"cannot {verb} it: {os.strerror(number)}", path, cure, number)
