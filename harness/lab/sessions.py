"""Sessions of pytest that share what all of them import: each is forked, not executed.

A helper imports pytest and the harness once, in a process of its own that does nothing else, and
forks for each session: half the memory of a session and half the time of its start are the same
for all.  A session dies with the helper, and that with whoever holds `Sessions`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import msgspec

__all__ = ["PYTEST", "Process", "Sessions"]

ROOT = Path(__file__).resolve().parents[2]
PYTEST = (sys.executable, "-m", "pytest")
"""A command that begins so is forked, any other executed."""
# What sessions have in common.  Not harness.plugin: pytest itself wants to import its plugins.
SHARED = ("pytest", "harness.fleet", "harness.lab.report", "harness.lab.telling", "harness.masking")
# Longest that the helper takes to begin, on a machine that does much else, in seconds.
PATIENCE_S = 300.0
_LONGEST = 1 << 20  # of a message, in bytes
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class Process(Protocol):
    """What subprocess.Popen and a forked session have in common."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit status, -N where signal N ended it; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end, if it still runs."""


class Sessions:
    """Starts sessions.  A context manager; what still runs at its end is asked to end.

    `mark` is a word for the helper's command line, which is that of its sessions, too.
    """

    def __init__(self, mark: str, log: Path) -> None:
        self._mark, self._log = mark, log
        self._helper: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._statuses: dict[int, int] = {}
        self._running: set[int] = set()
        # Sessions of a helper that has ended: they are about to end, too.
        self._lost: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, words: Sequence[str], log: Path, env: Mapping[str, str]) -> Process:
        """Run a command in the harness's checkout, what it prints appended to `log`, in a process
        group of its own."""
        if tuple(words[: len(PYTEST)]) == PYTEST:
            request = {"args": words[len(PYTEST) :], "log": str(log), "env": dict(env)}
            for _ in range(2):  # where the helper was killed there will be another
                if (pid := self._ask(request)) is not None:
                    return _Forked(self, pid)
        return _executed(words, log, env)

    def _ask(self, request: dict[str, Any]) -> int | None:
        """A session's number; None where the helper has ended."""
        channel = self._channel or self._begin()
        with suppress(OSError):
            channel.send(msgspec.json.encode(request))
            if (pid := self._hear(PATIENCE_S)) is not None:
                self._running.add(pid)
                return pid
        self.close()
        return None

    def close(self) -> None:
        """End the helper, and so all sessions.  Idempotent."""
        if self._channel is not None and self._helper is not None:
            self._channel.close()
            self._helper.wait()
        self._channel = self._helper = None
        self._lost |= self._running
        self._running.clear()

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._log.open("ab") as log:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(theirs.fileno()), self._mark],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the night; it tells its sessions
            )
        self._channel = ours
        return ours

    def _hear(self, patience_s: float) -> int | None:
        """Take in what the helper says: the session that has begun; None when it says no more, or
        has ended."""
        while self._channel and select.select([self._channel], [], [], patience_s)[0]:
            data = self._channel.recv(_LONGEST)
            if not data:
                self.close()
                break
            told = msgspec.json.decode(data)
            if "status" not in told:
                return int(told["pid"])
            self._statuses[told["pid"]] = told["status"]
            self._running.discard(told["pid"])
        return None

    def status(self, pid: int) -> int | None:
        """Of a session, as Process.poll."""
        if pid in self._running:
            self._hear(0.0)
        if pid in self._lost and not _runs(pid):
            self._lost.discard(pid)
            self._statuses[pid] = -signal.SIGTERM
        return self._statuses.get(pid)

    def terminate(self, pid: int) -> None:
        """By the helper: it knows whether the number is still that session's."""
        if self._channel is not None and pid in self._running:
            with suppress(OSError):  # it has ended, and so do they
                self._channel.send(msgspec.json.encode({"end": pid}))


class _Forked:
    """A session."""

    def __init__(self, sessions: Sessions, pid: int) -> None:
        self._sessions, self._pid = sessions, pid

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        return self._sessions.status(self._pid)

    def terminate(self) -> None:
        self._sessions.terminate(self._pid)


def _runs(pid: int) -> bool:
    """Nobody may be there to take in its end (proc_pid_stat(5): the state is Z then)."""
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return False


def _executed(words: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    with log.open("ab") as out:
        return subprocess.Popen(
            list(words),
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: _bind(parent),
        )


def _bind(parent: int) -> None:
    """End when `parent` does: who is killed must not leave sessions that hold their targets."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


# -- the helper ----------------------------------------------------------------


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; returns in each session with what it is to do, and at last, when
    nobody is at the other end any more, in the helper with None."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    helper, running = os.getpid(), set[int]()
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, _LONGEST)
            for pid, status in _ended(running):
                channel.send(msgspec.json.encode({"pid": pid, "status": status}))
        if channel.fileno() not in ready:
            continue
        data = channel.recv(_LONGEST)
        if not data:
            return None
        request: dict[str, Any] = msgspec.json.decode(data)
        if (ending := request.get("end")) is not None:
            if ending in running:
                os.kill(ending, signal.SIGTERM)
        elif pid := os.fork():
            running.add(pid)
            channel.send(msgspec.json.encode({"pid": pid}))
        else:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _bind(helper)
            for descriptor in (woken, wakes, channel.detach()):
                os.close(descriptor)
            return request


def _ended(running: set[int]) -> Iterator[tuple[int, int]]:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        running.discard(pid)
        yield pid, os.waitstatus_to_exitcode(status)


def main(descriptor: int) -> int:
    """The helper: its exit status.  Each session ends in it."""
    # A BLAS would start threads, which no fork takes along; nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in SHARED:
        importlib.import_module(name)
    # What is there now lives as long as the process: no collection touches, and so copies, it.
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=descriptor))
    if request is None:
        return 0
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.update(request["env"])
    sys.argv = ["pytest", *request["args"]]
    import pytest

    _leave(int(pytest.main(request["args"])))


def _leave(status: int) -> NoReturn:
    """End as an interpreter does, but for taking everything apart: that would copy all that the
    session shares, only to forget it."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
