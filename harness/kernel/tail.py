"""Following a kmsg file while a link still appends to it.

Reads only whole lines, remembers where each record begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.kernel.records import Record, parse

__all__ = ["Tail"]


class Tail:
    """An incremental reader of one boot's `kmsg`."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Follow `path` from `offset` bytes on, where a record must begin."""
        self._path = path
        self._offset = offset

    def advance(self) -> Iterator[tuple[Record, int]]:
        """Records appended since the last call, each with its offset in the file, in bytes."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                start = self._offset
                self._offset += len(line)
                for record in parse([line]):
                    yield record, start
