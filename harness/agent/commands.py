"""A command on the target: its status and its output, within a time and a size.

It runs in a session of its own, so that the limit ends all it started, too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from typing import Any

from .errors import target, usage

__all__ = ["Commands", "kill_group"]

_OUTPUT_LIMIT = 1 << 20
_PIECE = 1 << 16
_LINGER = 0.3


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal the process group `pid` leads, if any of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


class Commands:
    """Runs commands and knows which are running, to end them with the agent."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, argv: list[str], stdin: str, seconds: float) -> dict[str, Any]:
        """{"status", "signal", "timed_out", "stdout", "stderr", "truncated"}.

        `status` is null when a signal (its number) ended it.  Output is UTF-8
        with surrogateescape, 1 MiB of each stream at most.
        Raises AgentError: usage for no argv, target when it cannot be started.
        """
        if not argv or not argv[0]:
            raise usage("run needs a command", cure="pass argv: a list with the program first")
        end = time.monotonic() + seconds
        with self._lock:
            process = self._start(argv, subprocess.PIPE)
            self._running.add(process.pid)
        try:
            return _talk(process, stdin.encode("utf-8", "surrogateescape"), end)
        finally:
            with self._lock:
                self._running.discard(process.pid)

    def detach(self, argv: list[str]) -> int:
        """Start a command that the agent's end does not end, such as a reboot; its process.

        It has neither input nor output.  Raises AgentError as `run` does.
        """
        if not argv or not argv[0]:
            raise usage("detach needs a command", cure="pass argv: a list with the program first")
        with self._lock:  # `close` waits until it is started
            process = self._start(argv, subprocess.DEVNULL)
        threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
        return process.pid

    def _start(self, argv: list[str], stream: int) -> subprocess.Popen[bytes]:
        if self._closed:
            raise target("the agent is ending", argv[0], "start another")
        try:
            return subprocess.Popen(
                argv,
                stdin=stream,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise target(
                f"cannot be started: {error.strerror}",
                argv[0],
                "install it on the target, or check the path",
                error.errno,
            ) from error

    def close(self) -> None:
        """Kill what still runs and start nothing any more."""
        with self._lock:
            self._closed = True
            for pid in self._running:
                kill_group(pid)


def _talk(process: subprocess.Popen[bytes], data: bytes, end: float) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    output = {"stdout": bytearray(), "stderr": bytearray()}
    state = {"timed_out": False, "truncated": False}
    view = memoryview(data)
    with process.stdin, process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        if view:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
        else:
            process.stdin.close()
        while selector.get_map():
            ended = process.poll() is not None
            if ended:
                # A daemon it left behind may hold its output open for good.
                end = min(end, time.monotonic() + _LINGER)
            ready = selector.select(min(0.1, max(0.0, end - time.monotonic())))
            for key, _ in ready:
                if key.data == "stdin":
                    try:
                        view = view[os.write(key.fd, view) :]
                    except BrokenPipeError:
                        view = view[len(view) :]
                    if not view:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                kept = output[key.data]
                room = _OUTPUT_LIMIT - len(kept)
                kept += piece[:room]
                state["truncated"] = state["truncated"] or len(piece) > room
            if not ready and time.monotonic() >= end:
                if not ended:
                    state["timed_out"] = True
                    kill_group(process.pid)
                break
    _finish(process, end, state)
    code = process.returncode
    return {
        "status": code if code is not None and code >= 0 else None,
        "signal": -code if code is not None and code < 0 else None,
        **state,
        **{name: data.decode("utf-8", "surrogateescape") for name, data in output.items()},
    }


def _finish(process: subprocess.Popen[bytes], end: float, state: dict[str, bool]) -> None:
    """Wait for the end; one that outlives its limit, and then SIGKILL, is left as it is."""
    try:
        process.wait(max(0.05, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        state["timed_out"] = True
        kill_group(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
