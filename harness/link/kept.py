"""A child process that ends when the harness does, however the harness ends.

The process is started by a keeper (harness.link.keeper) which watches both; this is
the harness's side of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.link import keeper

__all__ = ["Kept"]

# Seconds for a keeper to reap a process that ended; it does at once where it may run.
_WORD_S = 10.0


class Kept:
    """A running process.  Methods may be called from any thread."""

    def __init__(self, argv: Sequence[str], *, fds: Sequence[int], stderr: Path) -> None:
        """Start it with `fds` under their numbers; what it prints is added to `stderr`.

        Raises OSError where that file cannot be written.  A program that cannot be
        started has ended.
        """
        with open(stderr, "ab") as said:
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", keeper.__file__),
                    *(str(fd) for fd in fds),
                    *("--", *argv),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                pass_fds=fds,
                # Ctrl-C at the terminal is for the harness, which releases workloads first.
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        self.pid = int(line) if line.strip() else 0
        # Around _pidfd: its number may be another file's once it is closed.
        self._lock = threading.Lock()
        self._pidfd = -1
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self.pid)

    def alive(self) -> bool:
        """Whether it runs."""
        return not self._over() and self._keeper.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended, 128+N for signal N; None while it runs.

        Once it has ended this waits for its keeper to say so.
        """
        if self._over():
            self.wait(_WORD_S)
        return self._keeper.poll()

    def how(self) -> str:
        """The same in words; "" while it runs."""
        status = self.status
        if status is None:
            return ""
        # A keeper that is killed takes its child along, by SIGKILL.
        status = 128 + signal.SIGKILL if status < 0 else status
        return f"exit status {status}" if status < 128 else f"killed by signal {status - 128}"

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended within `seconds`; None waits for ever."""
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """SIGTERM, from any thread; no-op when it has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def end(self) -> None:
        """SIGTERM, SIGKILL where that does not help; ended when this returns."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        if not self.wait(10.0):
            self._keeper.kill()
            self._keeper.wait()

    def forget(self) -> None:
        """Close what is left of one that ended."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):
                    pipe.close()
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def _over(self) -> bool:
        """Whether the process itself has ended, whatever its keeper knows yet."""
        with self._lock:
            if self._pidfd < 0:
                return False
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(0))
