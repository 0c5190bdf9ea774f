"""Files of pages → tables: chunk by chunk, CPU by CPU, merged by time.

Work is bounded by the chunk; only what was asked for is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.fence import pages
from harness.fence.columns import Chunk, Column, Texts, column, empty
from harness.fence.formats import Field, Format, Kind
from harness.fence.pages import Index, Ints, Layout, Records
from harness.fence.strings import Strings

__all__ = ["Loss", "Table", "read"]

# Decoded at once: few enough bytes for the caches, and enough pages to go side by side.
CHUNK_BYTES = 4 << 20
CHUNK_PAGES = 512


@dataclass(frozen=True, slots=True)
class Loss:
    """Events of `cpu` that happened between two times (ns) are missing.

    `after` 0: since the buffer began; `before` pages.NEVER: to the end.  `count`: how many; None
    where the kernel does not tell, or a page could not be read.
    """

    cpu: int
    after_ns: int
    before_ns: int
    count: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The records of one event, by time."""

    time: Ints
    """ns, ascending."""
    cpu: NDArray[np.uint16]
    pid: NDArray[np.int32]
    order: Ints
    """The place of each among all records that were read."""
    columns: Mapping[str, Column]
    """Every field but the common ones; texts as numbers of the recording's strings."""

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def without_records(cls, format_: Format | None) -> Table:
        """With the format's columns, if there is one."""
        fields = _shown(format_) if format_ else []
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.uint16),
            np.empty(0, np.int32),
            np.empty(0, np.int64),
            {field.name: empty(field) for field in fields},
        )


class _Event:
    """The rows of one event, gathered so far."""

    def __init__(self, format_: Format, strings: Strings) -> None:
        self.format = format_
        self.rows = 0
        self._texts = Texts(format_, strings)
        self._shown = _shown(format_)
        self._pid = next(field for field in format_.fields if field.name == "common_pid")
        self._parts: dict[str, list[Column]] = {field.name: [] for field in self._shown}
        self._pids: list[Column] = []

    def take(
        self, chunk: Chunk, base: Index, length: Ints
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Gather the rows at `base`; which of them are whole."""
        good = 4 * length >= self.format.fixed
        if not good.all():
            base, length = base[good], length[good]
        texts, wrong = self._texts.columns(chunk, base, length)
        if wrong is not None:
            right = ~wrong
            good[good] = right
            base = base[right]
            texts = {name: found[right] for name, found in texts.items()}
        for field in self._shown:
            found = texts.get(field.name)
            self._parts[field.name].append(column(chunk, base, field) if found is None else found)
        self._pids.append(column(chunk, base, self._pid))
        self.rows += len(base)
        return good

    def table(self, rows: Index, time: Ints, cpu: Column, order: Ints) -> Table:
        """Its rows in the order of `rows`, with what is known of them."""
        pid = _joined(self._pids, np.dtype(np.int32)).take(rows)
        columns = {}
        for field in self._shown:
            columns[field.name] = np.concatenate(self._parts.pop(field.name)).take(rows, axis=0)
        return Table(time, cpu, pid.astype(np.int32, copy=False), order, columns)


def read(
    files: Mapping[int, Path],
    layout: Layout,
    wanted: Sequence[Format],
    start: int,
    end: int,
) -> tuple[dict[str, Table], Strings, tuple[Loss, ...]]:
    """Tables of the `wanted` events in [start, end] ns, their texts, and what was lost then."""
    strings = Strings()
    events = [_Event(format_, strings) for format_ in wanted]
    which = np.full(1 << 16, -1, np.int16)
    for number, format_ in enumerate(wanted):
        if format_.id < len(which):
            which[format_.id] = number
    losses: list[Loss] = []
    times: list[Ints] = []
    kinds: list[NDArray[np.int16]] = []
    cpus: list[NDArray[np.uint16]] = []
    for cpu, file in sorted(files.items()):
        account = _Account(cpu)
        for data, count in _chunks(file, layout, start, end):
            chunk = Chunk(data)
            found = pages.records(data, count, layout)
            account.pages(found)
            time, kind = _take(chunk, found, events, which, start, end, account)
            times.append(time)
            kinds.append(kind)
            cpus.append(np.full(len(time), cpu, np.uint16))
        losses += account.close()
    tables = _merge(events, times, kinds, cpus)
    inside = [loss for loss in losses if loss.after_ns <= end and loss.before_ns >= start]
    return tables, strings, tuple(sorted(inside, key=lambda loss: (loss.after_ns, loss.cpu)))


def _take(
    chunk: Chunk,
    found: Records,
    events: Sequence[_Event],
    which: NDArray[np.int16],
    start: int,
    end: int,
    account: _Account,
) -> tuple[Ints, NDArray[np.int16]]:
    """Gather the wanted rows of a chunk; their times and their events' numbers, by place."""
    type_field = _type_field(events)
    if type_field is None or not len(found.time):
        return np.empty(0, np.int64), np.empty(0, np.int16)
    number = chunk.number(found.payload, type_field.offset, type_field.size, False)
    kind = which[number]
    keep = (kind >= 0) & (found.length > 0)
    if start > -pages.NEVER or end < pages.NEVER:
        keep &= (found.time >= start) & (found.time <= end)
    rows = np.flatnonzero(keep)
    payload, length, time = found.payload, found.length, found.time
    if len(rows) < len(kind):
        payload, length, time, kind = payload[rows], length[rows], time[rows], kind[rows]
    whole = np.ones(len(kind), np.bool_)
    for nth in _present(kind, events):
        mine = np.flatnonzero(kind == nth)
        whole[mine] = events[nth].take(chunk, payload.take(mine), length.take(mine))
    if not whole.all():
        account.torn(time[~whole])
        time, kind = time[whole], kind[whole]
    return time, kind


def _merge(
    events: Sequence[_Event],
    times: Sequence[Ints],
    kinds: Sequence[NDArray[np.int16]],
    cpus: Sequence[NDArray[np.uint16]],
) -> dict[str, Table]:
    """Tables by (time, cpu, place)."""
    time = _joined(times, np.dtype(np.int64))
    kind = _joined(kinds, np.dtype(np.int16))
    cpu = _joined(cpus, np.dtype(np.uint16))
    # Each CPU's times ascend, and a stable sort merges such runs in about linear time.
    order = np.argsort(time, kind="stable")
    row = np.empty(len(kind), np.intp)
    tables = {event.format.name: Table.without_records(event.format) for event in events}
    sorted_kind = kind.take(order)
    for nth in _present(kind, events):
        mine = np.flatnonzero(kind == nth)
        row[mine] = np.arange(len(mine))
        rank = np.flatnonzero(sorted_kind == nth)
        source = order.take(rank)
        event = events[nth]
        tables[event.format.name] = event.table(
            row.take(source), time.take(source), cpu.take(source), rank
        )
    return tables


def _present(kind: NDArray[np.int16], events: Sequence[_Event]) -> list[int]:
    """The numbers of those events of which there are records."""
    present: list[int] = np.flatnonzero(np.bincount(kind, minlength=len(events))).tolist()
    return present


class _Account:
    """What is missing of one CPU's events, from page to page."""

    def __init__(self, cpu: int) -> None:
        self._cpu = cpu
        self._last = 0
        self._broken = False
        self._losses: list[Loss] = []

    def pages(self, found: Records) -> None:
        """The next pages."""
        before = np.concatenate(([self._last], np.maximum.accumulate(found.last)[:-1]))
        before = np.maximum(before, self._last)
        backwards = found.first < before
        gap = found.missed | backwards
        after_broken = np.concatenate(([self._broken], found.broken[:-1]))
        for page in np.flatnonzero(gap | after_broken).tolist():
            after, until = sorted((int(before[page]), int(found.first[page])))
            known = found.missed[page] and not (after_broken[page] or backwards[page])
            count = int(found.count[page]) if known else -1
            self._losses.append(Loss(self._cpu, after, until, count if count >= 0 else None))
        self._last = max(self._last, int(found.last.max()))
        self._broken = bool(found.broken[-1])

    def torn(self, times: Ints) -> None:
        """Records at these times are shorter than their format."""
        self._losses += [Loss(self._cpu, time, time, 1) for time in times.tolist()]

    def close(self) -> list[Loss]:
        """All of it."""
        if self._broken:
            self._losses.append(Loss(self._cpu, self._last, pages.NEVER, None))
        return self._losses


def _chunks(
    file: Path, layout: Layout, start: int, end: int
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Whole pages that may hold events of [start, end], and how many they are."""
    size = layout.page_size
    total = file.stat().st_size // size
    if not total:
        return
    mapped = np.memmap(file, np.uint8, "r", shape=(total, size))
    first, last = _between(mapped, layout, start, end)
    most = max(CHUNK_BYTES // size, CHUNK_PAGES)
    data = pages.chunk_for(min(most, last - first), layout)
    for begin in range(first, last, most):
        count = min(most, last - begin)
        data[:count, :size] = mapped[begin : begin + count]
        yield data, count


def _between(mapped: NDArray[np.uint8], layout: Layout, start: int, end: int) -> tuple[int, int]:
    """The pages from the one before `start` to the one behind `end`: their neighbours tell what
    was lost at the edges."""
    if start == -pages.NEVER and end == pages.NEVER:
        return 0, len(mapped)
    times = pages.page_times(mapped, layout)
    # As if ascending even where a page is corrupt: too many pages are read rather than too few.
    lowest = np.minimum.accumulate(times[::-1])[::-1]
    highest = np.maximum.accumulate(np.where(times == pages.NEVER, 0, times))
    first = int(np.searchsorted(highest, start, side="left")) - 2
    last = int(np.searchsorted(lowest, end, side="right")) + 1
    return max(first, 0), max(min(last, len(mapped)), 0)


def _type_field(events: Sequence[_Event]) -> Field | None:
    return events[0].format.field("common_type") if events else None


def _shown(format_: Format) -> list[Field]:
    return [field for field in format_.own if field.kind is not Kind.OPAQUE]


def _joined(parts: Sequence[Column], kind: np.dtype[np.generic]) -> Column:
    return np.concatenate(parts) if parts else np.empty(0, kind)
