"""Files of pstore: whose last words they are.

Of ramoops and efi alike: dumps of the log ("Panic#1 Part1" on their first line, as
fs/pstore/platform.c writes it) and the console of the boot before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.kernel.merge import segments
from harness.kernel.records import Record, parse_console

__all__ = ["is_dump", "owner", "read"]

_HEAD = re.compile(rb"(\w+)#(\d+) Part(\d+)\r?\n?")


def read(raw: bytes) -> list[Record]:
    """The records of one file, in order of time; of several boots, those of the last."""
    parts = list(segments(parse_console(raw)))
    return parts[-1] if parts else []


def is_dump(raw: bytes) -> bool:
    """Whether it is of a death, not merely the console of a boot that ended."""
    return _HEAD.match(raw) is not None


def owner(raw: bytes, boots: Iterable[tuple[str, Iterable[Record]]]) -> str:
    """Which of `boots`, name and records, it is of: who shares most of its lines; "" for none."""
    wanted = {(record.usec, record.text.rstrip()) for record in read(raw)}
    best, most = "", 0
    for name, records in boots:
        shared = sum(
            (record.usec, line.rstrip()) in wanted for record in records for line in record.lines()
        )
        if shared > most:
            best, most = name, shared
    return best
