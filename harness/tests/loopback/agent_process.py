"""The real agent as a local process, for the tests around it.

Root and an interpreter that other users may run are needed for some of them;
what is missing is a reason to skip, never to pass.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.link.agent import Agent
from harness.link.channel import ProcessChannel
from harness.link.zipapp import build
from harness.tests.loopback import null_workload

__all__ = ["LIMIT", "archive", "common_python", "connect", "is_alive", "need_root", "until"]

LIMIT = 30.0
"""Seconds that any step may take on a busy machine; none is expected to."""


def archive(directory: Path) -> Path:
    """The agent with the null driver, in a directory that only its owner may enter."""
    place = directory / "private"
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / "agent.pyz"
    if not path.exists():
        path.write_bytes(_built())
    return path


@functools.cache
def _built() -> bytes:
    source = Path(null_workload.__file__).read_bytes()
    return build({"null_workload.py": source, "__main__.py": null_workload.MAIN})[0]


@functools.cache
def common_python() -> str:
    """A python that nobody may run too: a workload's interpreter."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        if not os.access(candidate, os.X_OK) or not _reachable(candidate):
            continue
        tried = subprocess.run(
            [candidate, "-I", "-c", "import ctypes, json"],
            user="nobody",
            check=False,
            capture_output=True,
        )
        if tried.returncode == 0:
            return candidate
    pytest.skip("no python that the user nobody may run: install python3 from the distribution")


def _reachable(path: str) -> bool:
    """Whether every directory above may be entered by others: else starting it raises."""
    return all(os.stat(parent).st_mode & 0o001 for parent in Path(path).resolve().parents)


def need_root() -> None:
    """Skip without root."""
    if os.geteuid() != 0:
        pytest.skip("the agent is root on a target: run these tests as root")


def connect(
    directory: Path,
    *serve: str,
    python: str = sys.executable,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    silence: float = 30.0,
) -> tuple[Agent, ProcessChannel]:
    """A greeted agent and its channel, whose `process` is the agent's."""
    channel = ProcessChannel([python, str(archive(directory)), "serve", *serve])
    return Agent(channel, Deadline(LIMIT), on_event=on_event, silence=silence), channel


def until(condition: Callable[[], bool]) -> bool:
    """Whether it came true within LIMIT."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def is_alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
