"""The journal: one line when something starts, one when it ends, each fsynced.

Whatever dies, the last line without a partner names what was running.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from harness.evidence.files import disk_error, give_room

__all__ = ["Journal", "read", "unfinished"]


class Journal:
    """Appends to journal.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._fd).st_size
            # A torn last line of a killed run must not swallow our first one.
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")
        except OSError as error:
            raise disk_error(path, error) from error

    def add(self, what: str, **facts: Any) -> None:
        """Append one entry with the host's UTC time; it is on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": now, "what": what, **facts}) + b"\n"
        try:
            self._append(line)
        except OSError as error:
            if not give_room(self.path, error):
                raise disk_error(self.path, error) from error
            try:
                self._append(b"\n" + line)  # after what was written of it
            except OSError as again:
                raise disk_error(self.path, again) from again

    def _append(self, line: bytes) -> None:
        done = os.write(self._fd, line)
        if done < len(line):
            os.write(self._fd, line[done:])  # raises, and says why
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file.  Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's entries; torn lines are left out.  A missing journal has none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    for line in raw.splitlines():
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(entry, dict) and "what" in entry:
            yield entry


def unfinished(path: Path) -> list[str]:
    """Tests that were started and have no end, in order: the last is the guilty one."""
    open_tests: dict[str, None] = {}
    for entry in read(path):
        if entry["what"] == "test-start":
            open_tests[entry["test"]] = None
        elif entry["what"] == "test-end":
            open_tests.pop(entry["test"], None)
    return list(open_tests)
