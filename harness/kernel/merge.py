"""One log of a boot out of all that carried a part of it: kmsg, console, netconsole, pstore.

Records are matched by sequence number where both have one, else by printk's clock and
text; what only one of them saw is put where its clock says, and gaps are named.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.kernel.records import Record, parse, parse_console

__all__ = ["Gap", "Line", "Merged", "merge", "read_netconsole", "segments"]

# Shorter pieces of a line prove nothing.
_PIECE = 8
# Of so many characters a console may have lost one.
_LOST = 10
# Clocks of two CPUs differ by less; a boot starts again from 0.  In microseconds.
_SLACK = 1_000_000
# init/main.c, start_kernel(): linux_banner.
_BANNER = "Linux version "


@dataclass(frozen=True, slots=True)
class Line:
    """One line.  `seq` is None where kmsg has not got it; `sources` in the order of `merge`'s
    arguments, "kmsg" first."""

    usec: int
    seq: int | None
    caller: str
    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Records `first` to `last`, inclusive, that kmsg has not got; `known` lines of them are in
    other sources, and follow."""

    first: int
    last: int
    known: int


@dataclass(frozen=True, slots=True)
class Merged:
    """The whole; `foreign` counts the lines of each source that are another boot's."""

    lines: list[Line | Gap]
    foreign: dict[str, int]


def merge(kmsg: Iterable[Record], others: Mapping[str, Iterable[Record]]) -> Merged:
    """The log of the boot whose /dev/kmsg was `kmsg`; others may hold other boots as well.

    Without any kmsg, the boot is the last one in each of the others.
    """
    pool = _Pool(kmsg)
    foreign = {}
    for name, records in others.items():
        foreign[name] = pool.add(name, list(segments(records)))
    return Merged(list(pool.lines()), foreign)


def segments(records: Iterable[Record]) -> Iterator[list[Record]]:
    """A stream that went on over reboots, cut where printk's clock begins again, or a kernel with
    its first line: one may die within a second."""
    current: list[Record] = []
    latest = 0
    for record in records:
        first = not record.usec and record.text.startswith(_BANNER)
        if record.usec + _SLACK < latest or (first and current):
            yield current
            current, latest = [], 0
        current.append(record)
        latest = max(latest, record.usec)
    if current:
        yield current


def read_netconsole(raw: Iterable[bytes]) -> Iterator[Record]:
    """A netconsole log, plain or extended (Documentation/networking/netconsole.rst); `seq` is
    real for extended records only, else 0."""
    for line in raw:
        record = next(parse([line]), None)
        if record is not None:
            yield record
        else:
            for plain in parse_console([line]):
                yield Record(0, plain.usec, plain.level, 0, plain.caller, plain.text)


class _Entry:
    """A line while its sources are still being found."""

    __slots__ = ("caller", "seq", "sources", "text", "usec")

    def __init__(self, record: Record, text: str, seq: int | None, source: str) -> None:
        self.usec, self.caller = record.usec, record.caller
        self.seq, self.text, self.sources = seq, text, [source]


class _Pool:
    """What is known so far."""

    def __init__(self, kmsg: Iterable[Record]) -> None:
        by_seq = {record.seq: record for record in kmsg}
        self._ordered = [by_seq[seq] for seq in sorted(by_seq)]
        self._known: dict[int, list[_Entry]] = defaultdict(list)
        self._entries: dict[int, list[_Entry]] = {}
        self._extra: list[_Entry] = []
        for record in self._ordered:
            self._entries[record.seq] = [
                _Entry(record, line.rstrip(), record.seq, "kmsg") for line in record.lines()
            ]
            for entry in self._entries[record.seq]:
                self._known[record.usec].append(entry)

    def add(self, name: str, parts: list[list[Record]]) -> int:
        """The segments of one source; how many of its lines belong to other boots."""
        if not parts:
            return 0
        mine = self._mine(parts)
        for record in parts[mine]:
            for line in record.lines():
                self._line(name, record, line.rstrip())
        return sum(len(part) for number, part in enumerate(parts) if number != mine)

    def _mine(self, parts: list[list[Record]]) -> int:
        """Which segment shares most lines with kmsg; the last one without any."""
        if not self._ordered:
            return len(parts) - 1
        shared = [sum(self._match(r, r.text.rstrip()) is not None for r in part) for part in parts]
        return max(range(len(parts)), key=lambda number: shared[number])

    def _match(self, record: Record, text: str) -> _Entry | None:
        same = self._known.get(record.usec, [])
        for entry in same:
            if entry.text == text:
                return entry
        return next((entry for entry in same if _cut(entry.text, text)), None)

    def _line(self, name: str, record: Record, text: str) -> None:
        entry = self._match(record, text)
        if entry is None:
            entry = _Entry(record, text, None, name)
            self._known[record.usec].append(entry)
            self._extra.append(entry)
            return
        if name not in entry.sources:
            entry.sources.append(name)
        if entry.seq is None and len(text) > len(entry.text):
            entry.text = text

    def lines(self) -> Iterator[Line | Gap]:
        """All of them in order."""
        # Records of several CPUs are numbered in an order that their clocks do not quite keep.
        clock, latest = [], 0
        for record in self._ordered:
            latest = max(latest, record.usec)
            clock.append(latest)
        after: dict[int, list[_Entry]] = defaultdict(list)
        for entry in sorted(self._extra, key=lambda entry: entry.usec):
            after[bisect_right(clock, entry.usec)].append(entry)
        yield from map(_told, after[0])
        for number, record in enumerate(self._ordered, 1):
            yield from map(_told, self._entries[record.seq])
            following = self._ordered[number].seq if number < len(self._ordered) else None
            if following is not None and following > record.seq + 1:
                yield Gap(record.seq + 1, following - 1, len(after[number]))
            yield from map(_told, after[number])


def _cut(whole: str, piece: str) -> bool:
    """Whether one is what is left of the other: a console is cut short, and loses characters."""
    short, long = sorted((whole, piece), key=len)
    if len(short) < _PIECE:
        return False
    rest = iter(long)
    nearly = len(long) - len(short) <= len(long) // _LOST
    return long.startswith(short) or (nearly and all(letter in rest for letter in short))


def _told(entry: _Entry) -> Line:
    return Line(entry.usec, entry.seq, entry.caller, entry.text, tuple(entry.sources))
