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

from harness.kernel import kinds, resets
from harness.kernel.formats import Reader
from harness.kernel.records import Record
from harness.kernel.resets import GpuEvent
from harness.kernel.splats import Finder, Splat

__all__ = ["Boot", "Lost", "Scan"]

# Read at once, in bytes.  Larger gains nothing, and what is read stands in memory twice.
CHUNK = 1 << 20

# init/version-timestamp.c, linux_banner; kernel/printk/printk.c, print_dropped()
_BANNER = re.compile(r"Linux version (\S+)")
_DROPPED = re.compile(r"\*\* (\d+) printk messages dropped")
_HINT = re2.compile(
    b"|".join(
        re.escape(word)
        for word in sorted(
            {
                *(hint.encode() for hint in kinds.HINTS),
                *resets.HINTS,
                b"Linux version ",
                b"printk messages dropped",
            }
        )
    )
)
_GPU = re.compile(b"|".join(re.escape(hint) for hint in resets.HINTS))
# The sequence numbers of /dev/kmsg and of netconsole's extended form.
_NUMBERED = re.compile(rb"^\d+,(\d+),\d+,[-c+]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel began to log."""

    seq: int
    release: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that the log does not have: the kernel says so, or their numbers are missing."""

    seq: int
    records: int


class Scan:
    """One pass over a log of any form.  `bytes` and `lines` count what was read so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self.bytes = 0
        self.lines = 0
        self._stream = stream
        self._reader = Reader()
        self._finder = Finder()
        self._next_seq: int | None = None

    def __iter__(self) -> Iterator[Splat | GpuEvent | Boot | Lost]:
        """What is in it, reports as they end.  Memory does not grow with the log.  Never raises
        for what the log holds; OSError where it cannot be read."""
        for block in self._blocks():
            yield from self._gaps(block)
            yield from self._block(block)
        for record in self._reader.flush():
            yield from self._finder.feed(record)
        yield from self._finder.flush()

    def _blocks(self) -> Iterator[bytes]:
        """The log in pieces of whole lines; a line longer than a piece is cut."""
        rest = b""
        while chunk := self._stream.read(CHUNK):
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

    def _block(self, block: bytes) -> Iterator[Splat | GpuEvent | Boot | Lost]:
        at, size = 0, len(block)
        newlines = numpy.frombuffer(block, numpy.uint8) == 10
        while at < size:
            if self._finder.idle:
                hint = _HINT.search(block, at)
                if hint is None:
                    self.lines += int(numpy.count_nonzero(newlines[at:]))
                    self.lines += not block.endswith(b"\n")
                    return
                start = max(block.rfind(b"\n", at, hint.start()) + 1, at)
                self.lines += int(numpy.count_nonzero(newlines[at:start]))
                at = start
            end = block.find(b"\n", at)
            end = size if end < 0 else end
            line = block[at:end]
            self.lines += 1
            gpu = _GPU.search(line) is not None
            for record in self._reader.feed(line, self.lines):
                yield from self._finder.feed(record)
                if not record.facility:
                    yield from self._aside(record, gpu)
            at = end + 1

    def _aside(self, record: Record, gpu: bool) -> Iterator[GpuEvent | Boot | Lost]:
        """What a record tells besides reports."""
        if gpu:
            yield from resets.find([record])
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
