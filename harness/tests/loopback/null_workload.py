"""A workload without a GPU, for the tests of how workloads are run.

It goes into a test's zipapp beside the real agent; what it "hangs" on is an
event, and each release is written to the file that was passed to it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["MAIN", "NullWorkload", "open_workload"]

MAIN = b"""
import sys
from agent.__main__ import main
from agent.workload import DRIVERS
sys.exit(main(drivers={**DRIVERS, "null": "null_workload"}))
"""
"""The zipapp's __main__.py that knows this driver."""


class NullWorkload:
    """Blocks, dies, is stubborn: as asked."""

    overtaking = frozenset({"release"})

    def __init__(self, passed: Mapping[str, int], bailout: float) -> None:
        self._passed = passed
        self._released = threading.Event()
        self._stubborn = False
        self.bailout = bailout

    def perform(self, op: str, arguments: Any) -> dict[str, Any]:
        """who, block, release, die, stubborn, say."""
        if op == "who":
            with open("/proc/self/status", encoding="ascii") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            return {
                "status": status,
                "passed": sorted(self._passed),
                "bailout": self.bailout,
                "cwd": os.getcwd(),
                "sealed": self._sealed(),
                "environment": dict(os.environ),
                "session": os.getsid(0) == os.getpid(),
            }
        if op == "block":
            seconds = arguments.seconds("seconds", 30.0)
            return {"released": self._released.wait(seconds)}
        if op == "release":
            self.release_all()
            return {}
        if op == "die":
            sys.stderr.write("null: told to die\n")
            sys.stderr.flush()
            os._exit(7)
        if op == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._stubborn = True
            while True:
                threading.Event().wait(60)
        if op == "say":
            sys.stderr.write(arguments.text("text") + "\n")
            sys.stderr.flush()
            return {}
        raise OSError(38, "no such operation here", op)

    def _sealed(self) -> bool:
        """Whether the code this process runs from cannot be written by it."""
        try:
            os.write(int(sys.argv[0].rpartition("/")[2]), b"x")
        except PermissionError:
            return True
        return False

    def release_all(self) -> None:
        """Set the event; the first time, tell the passed file."""
        if not self._released.is_set():
            self._released.set()
            for fd in self._passed.values():
                os.write(fd, b"released\n")


def open_workload(
    node: str, primary: str, bailout: float, passed: Mapping[str, int]
) -> NullWorkload:
    """As harness/agent/workload/process.py wants it."""
    if node == "/nonexistent":
        raise OSError(2, "no such device", node)
    return NullWorkload(passed, bailout)
