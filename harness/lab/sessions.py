"""Sessions of pytest that share what all of them import: each is forked, not executed.

multiprocessing's fork server imports pytest and the harness once (harness/lab/warm.py) and forks
for each session: half the memory of a session and half the time of its start are the same for
all.  A session does not outlive the process that started it.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

__all__ = ["PYTEST", "Process", "start"]

ROOT = Path(__file__).resolve().parents[2]
PYTEST = (sys.executable, "-m", "pytest")
"""A command that begins so is forked, any other executed."""
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["harness.lab.warm"])


class Process(Protocol):
    """What subprocess.Popen and a forked session have in common."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit status, -N where signal N ended it; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end, if it still runs."""


def start(words: Sequence[str], log: Path, env: Mapping[str, str]) -> Process:
    """Run a command in the harness's checkout, what it prints appended to `log`, in a process
    group of its own."""
    if tuple(words[: len(PYTEST)]) != PYTEST:
        return _executed(words, log, env)
    job = (list(words[len(PYTEST) :]), str(log), {**os.environ, **env})
    process = _CONTEXT.Process(target=_session, args=job, daemon=True)
    process.start()
    return _Forked(process)


class _Forked:
    """A session."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


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


def _session(args: list[str], log: str, env: dict[str, str]) -> None:
    """What a forked process does."""
    os.setsid()
    # The fork server is the parent of all; it outlives who asked for them while one of them runs.
    _bind(os.getppid())
    threading.Thread(target=_follow, daemon=True).start()
    os.chdir(ROOT)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["pytest", *args]
    import pytest

    try:
        raise SystemExit(int(pytest.main(args)))
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _follow() -> None:
    """End as soon as the process that asked for this one has ended."""
    night = multiprocessing.parent_process()
    assert night is not None, "this is no child"
    wait([night.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
