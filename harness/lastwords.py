"""Last words: what a dying kernel said after the last record that reached us.

A panic never reaches the readers of /dev/kmsg; it is on the console, on netconsole, or
in pstore, whichever of them got furthest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.evidence.packed import plain
from harness.kernel import pstore, splats
from harness.kernel.merge import read_netconsole
from harness.kernel.records import Record, parse_console

__all__ = ["last_words"]


def last_words(boot: Path, last: int) -> tuple[str, list[Record]]:
    """The stream of the boot directory `boot` that tells most after `last`, in microseconds of
    the kernel's clock, and what it tells."""
    best: tuple[str, list[Record]] = "console.log", []
    for name, records in _streams(boot):
        told = list(_since(records, last))
        if len(told) > len(best[1]):
            best = name, told
    return best


def _streams(boot: Path) -> Iterator[tuple[str, Iterable[Record]]]:
    """In this order where they tell the same."""
    for name, read in (("console.log", parse_console), ("netconsole.log", read_netconsole)):
        path = plain(boot / name)
        if path.exists():
            with path.open("rb") as stream:
                yield name, read(stream)
    for path in sorted((boot / "pstore").glob("*")):
        yield f"pstore/{path.name}", pstore.read(path.read_bytes())


def _since(records: Iterable[Record], last: int) -> Iterator[Record]:
    """What comes after `last`, to the clock's end: a machine that reboots after its panic goes on
    in the same file, from 0."""
    reached = False
    for entry in records:
        reached |= entry.usec >= last
        if reached and entry.usec + splats.SLACK < last:
            return
        if entry.usec > last:
            yield entry
