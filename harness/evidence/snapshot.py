"""Snapshots: what the agent saw of stuck tasks, as it lies beside a test's other evidence.

Only what is read again is named here; the file holds more.  snapshot.json is that of a
test that has gone wrong, snapshot-WHY.json one that it asked for itself.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

__all__ = ["Snapshot", "Task", "read"]


class Task(Struct, frozen=True):
    """A thread; `state` as in /proc/PID/stat, `stack` one frame a line, `error` why not."""

    tid: int
    comm: str = ""
    state: str = ""
    stack: str = ""
    error: str = ""


class Snapshot(Struct, frozen=True):
    """Taken at `mono` ns of CLOCK_MONOTONIC, in `elapsed_ns`; `locks` is lockdep's list of held
    locks as the kernel printed it, "" where it did not."""

    mono: int
    elapsed_ns: int = 0
    tasks: tuple[Task, ...] = ()
    locks: str = ""


def read(directory: Path) -> list[Snapshot]:
    """Those of one test, in order of time.  One that cannot be read is as if not there."""
    found = []
    for path in directory.glob("snapshot*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Snapshot))
        except (OSError, msgspec.MsgspecError):
            continue
    return sorted(found, key=lambda snapshot: snapshot.mono)
