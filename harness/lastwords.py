"""Last words: what a dying kernel said after the last record that reached us.

A panic never reaches the readers of /dev/kmsg; it is on the console, on netconsole, in
pstore or in kdump's log, whichever of them got furthest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.evidence.packed import plain
from harness.kernel import pstore
from harness.kernel.merge import read_netconsole, segments
from harness.kernel.records import Record, parse, parse_console

__all__ = ["kept", "last_words"]


def last_words(boot: Path, last: int) -> tuple[str, list[Record]]:
    """The stream of the boot directory `boot` that tells most after `last`, in microseconds of
    the kernel's clock, and what it tells."""
    best: tuple[str, list[Record]] = "console.log", []
    known = _known(boot)
    for name, records in _streams(boot):
        told = _since(records, last, known)
        if len(told) > len(best[1]):
            best = name, told
    return best


def kept(boot: Path) -> Iterator[tuple[str, list[Record]]]:
    """What the target itself kept of the boot over its death: each dump of the log, with its
    name."""
    files = {path.name: path.read_bytes() for path in (boot / "pstore").glob("*")}
    for name, raw in pstore.joined(files).items():
        yield f"pstore/{name}", pstore.read(raw)
    for path in sorted((boot / "kdump").glob("dmesg-*.txt")):
        yield f"kdump/{path.name}", pstore.read(path.read_bytes())


def _known(boot: Path) -> set[int]:
    """The lines that are in the boot's own log, as `_keys` names them."""
    path = plain(boot / "kmsg")
    if not path.exists():
        return set()
    with path.open("rb") as stream:
        return {key for record in parse(stream) for key in _keys(record)}


def _keys(record: Record) -> Iterator[int]:
    for line in record.lines():
        yield hash((record.usec, line.rstrip()))


def _streams(boot: Path) -> Iterator[tuple[str, Iterable[Record]]]:
    """In this order where they tell the same."""
    for name, read in (("console.log", parse_console), ("netconsole.log", read_netconsole)):
        path = plain(boot / name)
        if path.exists():
            with path.open("rb") as stream:
                yield name, read(stream)
    yield from kept(boot)


def _since(records: Iterable[Record], last: int, known: set[int]) -> list[Record]:
    """What comes after `last` in this boot's part of a stream, which may begin with the end of
    the boot before, and goes on from 0 when the machine reboots after its panic.

    Ours is the part with most lines of the boot's own log; where none has any, as on a console
    that shows only what is urgent, the one that goes on soonest after `last`.
    """
    most, soonest = 0, 0
    ours: list[Record] = []
    for part in segments(records):
        words = [record for record in part if record.usec > last]
        shared = sum(key in known for record in part for key in _keys(record))
        soon = words[0].usec if words else 0
        if shared > most or (shared == most and words and not 0 < soonest <= soon):
            most, soonest, ours = shared, soon, words
    return ours
