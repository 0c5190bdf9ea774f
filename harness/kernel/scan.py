"""Reports in large logs: looks for what can start one, and reads only what is around it.

A log of a gigabyte is mostly of no interest.  One compiled search over its bytes finds the lines
worth reading; from there records are made and reports followed until none is open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy
import re2
from numpy import bool_
from numpy.typing import NDArray

from harness.kernel import kinds, reset_lines, resets
from harness.kernel.flood import Flood, Run, Unit
from harness.kernel.formats import Reader, looks_like_log, refuse_packed
from harness.kernel.records import WIDEST, Record
from harness.kernel.resets import GpuEvent
from harness.kernel.splats import Finder, Splat

__all__ = ["Again", "Boot", "Lost", "Scan"]

# Read at once, in bytes.  Larger gains nothing, and what is read stands in memory twice.
CHUNK = 1 << 20

# init/version-timestamp.c, linux_banner; kernel/printk/printk.c, print_dropped()
_BANNER = re.compile(r"Linux version (\S+)")
_DROPPED = re.compile(r"\*\* (\d{1,18}) printk messages dropped")
# One DFA over all literals, whatever their number, and no captures: hundreds of megabytes a second.
_OPTIONS = re2.Options()
_OPTIONS.never_capture = True
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_REPORTS = [re.escape(word.encode()) for word in (*kinds.HINTS, "Linux version ", "k messages dr")]
_EVENTS = [re.escape(word) for word in resets.HINTS]
_HINT = re2.compile(b"|".join(_REPORTS + _EVENTS), _OPTIONS)
# Words of GPU events are common; such a line is looked at once more before it is read.
_REPORT = re2.compile(b"|".join(_REPORTS), _OPTIONS)
_EVENT = re.compile(
    "|".join(
        re.sub(r"\?P<\w+>", "?:", row.pattern.pattern).replace("(?:^|", "(?:|").replace("|^)", "|)")
        for row in reset_lines.LINES
    ).encode()
)
# The sequence numbers of /dev/kmsg and of netconsole's extended form.
_NUMBERED = re.compile(rb"^\d{1,18},(\d{1,18}),\d{1,18},[-c+]", re.MULTILINE)


def _next(block: bytes, at: int) -> int:
    """Where the next word ends that makes a line worth reading; past the block if there is none."""
    while (found := _HINT.search(block, at)) is not None:
        end = block.find(b"\n", found.end())
        end = len(block) if end < 0 else end
        line = block[block.rfind(b"\n", 0, found.start()) + 1 : end]
        if _REPORT.search(line) is not None or _EVENT.search(line[:WIDEST].rstrip()) is not None:
            return int(found.end())
        at = end
    return len(block) + 1


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel began to log."""

    seq: int
    release: str


@dataclass(frozen=True, slots=True)
class Again:
    """A report that came `times` more, alike but for numbers; the last one began with `seq`."""

    splat: Splat
    times: int
    seq: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that the log does not have: the kernel says so, or their numbers are missing."""

    seq: int
    records: int


class Scan:
    """One pass over a log of any form.  `bytes` and `lines` count what was read so far;
    `looks_like_log`: some line had before its text what a kernel puts there."""

    def __init__(self, stream: BinaryIO) -> None:
        self.bytes = 0
        self.lines = 0
        self.looks_like_log = False
        self._stream = stream
        self._reader = Reader()
        self._finder = Finder()
        self._flood = Flood()
        self._next_seq: int | None = None

    @property
    def numbered(self) -> bool:
        """Whether `seq` is the kernel's own number, and not a line's."""
        return self._reader.numbered or self._next_seq is not None

    def __iter__(self) -> Iterator[Splat | Again | GpuEvent | Boot | Lost]:
        """What is in it, reports as they end.  Memory does not grow with the log.  Never raises
        for what the log holds; OSError where it cannot be read, UsageError where it is packed."""
        for block in self._blocks():
            self.looks_like_log = self.looks_like_log or looks_like_log(block)
            yield from self._gaps(block)
            yield from self._block(block)
        for record in self._reader.flush():
            yield from self._finder.feed(record)
        yield from self._finder.flush()

    def _blocks(self) -> Iterator[bytes]:
        """The log in pieces of whole lines; a line longer than a piece is cut."""
        rest = b""
        while chunk := self._stream.read(CHUNK):
            if not self.bytes:
                refuse_packed(chunk)
            self.bytes += len(chunk)
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            elif len(rest) > CHUNK:
                yield rest
                rest = chunk
            else:
                rest += chunk
        if rest:
            yield rest

    def _block(self, block: bytes) -> Iterator[Splat | Again | GpuEvent | Boot | Lost]:
        at, size = 0, len(block)
        newlines = numpy.frombuffer(block, numpy.uint8) == 10
        hint = -1  # where the next one ends; no line before that place starts anything
        unit = Unit()
        while at < size:
            if hint < at:
                hint = _next(block, at)
            if self._finder.idle:
                start = size if hint > size else max(block.rfind(b"\n", at, hint - 1) + 1, at)
                self.lines += int(numpy.count_nonzero(newlines[at:start]))
                at = start
                if at == size:
                    self.lines += not block.endswith(b"\n")
                    return
            end = block.find(b"\n", at)
            end = size if end < 0 else end
            hinted = hint <= end
            if hinted and self._flood:
                runs, last = self._repeated(block, at, unit)
                if runs:
                    yield from self._again(block, newlines[at:last], at, runs)
                    at, hint, unit = last, -1, Unit()
                    continue
            self.lines += 1
            before, told = self._finder.sole, list[Splat | GpuEvent | Boot | Lost]()
            records = list(self._reader.feed(block[at:end], self.lines))
            for record in records:
                told += self._finder.feed(record, hinted)
                if hinted and not record.facility:
                    told += self._aside(record)
            yield from told
            if len(records) == 1:
                self._learn(block, unit, at, before, told)
            else:
                unit = Unit()
            at = end + 1

    def _learn(
        self,
        block: bytes,
        unit: Unit,
        at: int,
        before: int,
        told: list[Splat | GpuEvent | Boot | Lost],
    ) -> None:
        """What a line that was just read tells of floods; `before` it, that report was open."""
        sole, idle = self._finder.sole, self._finder.idle
        closed = told[0] if len(told) == 1 and isinstance(told[0], Splat) else None
        starts = sole not in (0, before)
        alone = closed is not None and idle and not before and len(closed.records) == 1
        if starts or alone:
            if unit.start >= 0 and unit.ended is not None:
                self._flood.learn(block[unit.start : at], unit.ended, "")
            elif unit.start >= 0 and closed is not None:
                self._flood.learn(block[unit.start : at], closed, self._finder.began)
            unit.start = at if closed is not None or not told else -1
            unit.ended = closed if alone else None
        elif closed is not None and idle and unit.ended is None:
            unit.ended = closed
        elif told or sole != before:
            unit.start = -1

    def _repeated(self, block: bytes, at: int, unit: Unit) -> tuple[list[Run], int]:
        """The reports from `at` on that are known already, and where the one after begins."""
        before = None
        if not self._finder.idle:
            before = self._flood.known(block, unit.start, at) if unit.start >= 0 else None
            if before is None:
                return [], at
        return self._flood.follow(block, at, before)

    def _again(
        self, block: bytes, newlines: NDArray[bool_], at: int, runs: list[Run]
    ) -> Iterator[Again]:
        """What stands from `at` to where `newlines` end."""
        for run in runs:
            number = self.lines + int(numpy.count_nonzero(newlines[: run.last - at])) + 1
            line = block[run.last : block.find(b"\n", run.last)]
            records = [*self._reader.feed(line, number), *self._reader.flush()]
            yield Again(run.form.splat, run.times, records[-1].seq)
        self.lines += int(numpy.count_nonzero(newlines))

    def _aside(self, record: Record) -> Iterator[GpuEvent | Boot | Lost]:
        """What a record tells besides reports."""
        yield from resets.trail([record])
        if (banner := _BANNER.match(record.text)) is not None:
            yield Boot(record.seq, banner[1])
        elif (dropped := _DROPPED.match(record.text)) is not None:
            yield Lost(record.seq, int(dropped[1]))

    def _gaps(self, block: bytes) -> Iterator[Lost]:
        if _NUMBERED.match(block) is None and self._next_seq is None:
            return
        found = numpy.array(_NUMBERED.findall(block), dtype=numpy.int64)
        if not len(found):
            return
        if self._next_seq is not None:
            found = numpy.concatenate(([self._next_seq - 1], found))
        steps = numpy.diff(found)
        for index in numpy.flatnonzero(steps > 1):
            yield Lost(int(found[index]) + 1, int(steps[index]) - 1)
        self._next_seq = int(found[-1]) + 1
