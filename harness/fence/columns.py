"""Records of one event → columns: every field an array, every text a number.

Offsets and sizes are the format file's; rows are gathered whole arrays at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.fence.formats import Field, Format, Kind
from harness.fence.pages import BETWEEN, Index, Ints, Words
from harness.fence.strings import Strings

__all__ = ["Chunk", "Column", "Texts", "column", "empty"]

Column = NDArray[Any]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

_LOCATED = (Kind.DATA_LOC, Kind.REL_LOC)
_TEXT = (*_LOCATED, Kind.CHARS)
# Masks that keep the first n bytes of 8.
_KEEP = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_CACHE_BITS = 14
_ONE, _TWO = np.uint64(1), np.uint64(2)


class Chunk:
    """A stretch of pages, seen as bytes and as words."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.bytes = data.reshape(-1)
        self.words: Words = self.bytes.view("<u4")

    def raw(self, base: Index, offset: int, size: int) -> NDArray[np.void]:
        """The `size` bytes that lie `offset` behind each word of `base`, one after the other."""
        windows = np.ndarray(len(self.bytes) - size + 1, f"V{size}", self.bytes, 0, (1,))
        found: NDArray[np.void] = windows[base * 4 + offset]
        return found

    def number(self, base: Index, offset: int, size: int, signed: bool) -> Column:
        """The number of `size` bytes, `offset` bytes behind each word of `base`."""
        kind = np.dtype(f"<{'i' if signed else 'u'}{size}")
        if size == 4 and not offset % 4:
            return self.words.take(base + offset // 4).view(kind)
        return self.raw(base, offset, size).view(kind)

    def rows(self, base: Index, field: Field) -> Column:
        """An array of `field.count` numbers for each word of `base`."""
        kind = np.dtype(f"<{'i' if field.signed else 'u'}{field.width}")
        found: Column = self.raw(base, field.offset, field.size).view(kind)
        return found.reshape(-1, field.count)


def empty(field: Field) -> Column:
    """The column of a field of which there is no record."""
    if field.kind in _TEXT:
        return np.empty(0, np.int32)
    kind = np.dtype(f"{'i' if field.signed else 'u'}{field.width}")
    return np.empty((0, field.count) if field.kind is Kind.ARRAY else 0, kind)


def column(chunk: Chunk, base: Index, field: Field) -> Column:
    """A field that is no text."""
    if field.kind is Kind.ARRAY:
        return chunk.rows(base, field)
    return chunk.number(base, field.offset, field.size, field.signed)


class Texts:
    """The texts of one event's records.

    Rows whose texts are alike are found by a 64-bit hash over the bytes that hold them; Python
    looks at one row of each kind.  The hash's key is drawn anew for each table, so that nothing a
    target writes can make two texts collide but by chance.
    """

    def __init__(self, format_: Format, strings: Strings) -> None:
        self.fields = [field for field in format_.own if field.kind in _TEXT]
        self._located = [field for field in self.fields if field.kind in _LOCATED]
        self._chars = [field for field in self.fields if field.kind is Kind.CHARS]
        self._fixed = format_.fixed
        self._strings = strings
        random = np.random.default_rng()
        self._seed = random.integers(1, 1 << 63, dtype=np.uint64)
        self._key = random.integers(1 << 62, 1 << 63, dtype=np.uint64) * _TWO + _ONE
        self._classes: dict[int, int] = {}
        # Of each class: the number of each field's text.
        self._ids: list[list[int]] = [[] for _ in self.fields]
        self._cached = np.zeros(1 << _CACHE_BITS, np.uint64)
        self._class = np.zeros(1 << _CACHE_BITS, np.int32)

    def columns(
        self, chunk: Chunk, base: Index, length: Ints
    ) -> tuple[dict[str, Column], Bools | None]:
        """A column of numbers for each text field; and which rows have a text outside of
        their record (None: all are well), whose columns mean nothing."""
        if not len(base):
            return {field.name: empty(field) for field in self.fields}, None
        hashes, wrong = self._hashes(chunk, base, length)
        classes = self._classify(chunk, base, length, hashes)
        found = {
            field.name: np.array(ids, np.int32).take(classes)
            for field, ids in zip(self.fields, self._ids, strict=True)
        }
        return found, wrong

    def _hashes(self, chunk: Chunk, base: Index, length: Ints) -> tuple[Hashes, Bools | None]:
        # Never 0, which is what an empty place of the cache holds.
        total = np.full(len(base), self._seed)
        for field in self._chars:
            for part in range(0, field.size, 8):
                size = min(field.size - part, 8)
                self._mix(total, _cells(chunk, base, field.offset + part, size)[:, 0])
        if not self._located:
            return total, None
        ends = np.zeros(len(base), np.int64)
        wrong = np.zeros(len(base), np.bool_)
        for field in self._located:
            where = chunk.number(base, field.offset, 4, False)
            self._mix(total, where)
            begin, end = _stretch(where, field)
            wrong |= begin < self._fixed
            np.maximum(ends, end, out=ends)
        wrong |= ends > 4 * length
        some_wrong = bool(wrong.any())
        if some_wrong:
            ends[wrong] = self._fixed
        self._mix_tail(total, chunk, base, ends)
        return total, wrong if some_wrong else None

    def _mix_tail(self, total: Hashes, chunk: Chunk, base: Index, ends: Ints) -> None:
        """What lies between the fixed part and the end of the last text; what is behind that in
        the record was never written."""
        most = int(ends.max())
        for block in range(self._fixed, most, BETWEEN):
            # Fewer and fewer texts are that long.
            rows = np.flatnonzero(ends > block)
            left = ends[rows] - block
            part = total[rows]
            size = min(most - block + 7, BETWEEN) // 8 * 8
            cells = _cells(chunk, base.take(rows), block, size)
            least = int(left.min())
            for nth in range(size // 8):
                if 8 * nth + 8 <= least:
                    self._mix(part, cells[:, nth])
                    continue
                some = np.flatnonzero(left > 8 * nth)
                kept = cells[some, nth] & _KEEP.take(np.minimum(left[some] - 8 * nth, 8))
                mixed = part[some]
                self._mix(mixed, kept)
                part[some] = mixed
            total[rows] = part

    def _mix(self, total: Hashes, cells: Column) -> None:
        total += cells
        total *= self._key
        total ^= total >> np.uint64(29)

    def _classify(self, chunk: Chunk, base: Index, length: Ints, hashes: Hashes) -> Index:
        slots = (hashes >> np.uint64(64 - _CACHE_BITS)).astype(np.intp)
        classes = self._class[slots].astype(np.intp)
        missing = np.flatnonzero(self._cached[slots] != hashes)
        if missing.size:
            unique, first, inverse = np.unique(
                hashes[missing], return_index=True, return_inverse=True
            )
            numbers = np.empty(len(unique), np.int32)
            # In the order of their coming, so that texts are numbered alike in each process.
            for nth in np.argsort(first).tolist():
                row = int(missing[first[nth]])
                numbers[nth] = self._class_of(chunk, int(base[row]), int(length[row]), unique[nth])
            places = slots[missing[first]]
            self._cached[places] = unique
            self._class[places] = numbers
            classes[missing] = numbers[inverse]
        return classes

    def _class_of(self, chunk: Chunk, base: int, length: int, hash_: np.uint64) -> int:
        key = int(hash_)
        number = self._classes.get(key)
        if number is None:
            number = self._classes[key] = len(self._classes)
            record = chunk.bytes[4 * base : 4 * (base + length)].tobytes()
            for field, ids in zip(self.fields, self._ids, strict=True):
                ids.append(self._strings.intern(_text(record, field, self._fixed)))
        return number


def _cells(chunk: Chunk, base: Index, offset: int, size: int) -> Hashes:
    """`size` bytes of each row, as rows of 8 bytes each; the last one is filled with zeros."""
    raw = chunk.raw(base, offset, size).view(np.uint8).reshape(-1, size)
    if size % 8:
        raw = np.pad(raw, ((0, 0), (0, -size % 8)))
    return raw.view("<u8")


def _stretch(where: Column, field: Field) -> tuple[Ints, Ints]:
    """Where texts begin and end in their records (include/trace/stages/stage1_struct_define.h)."""
    begin = (where & np.uint32(0xFFFF)).astype(np.int64)
    if field.kind is Kind.REL_LOC:
        begin += field.end
    return begin, begin + (where >> np.uint32(16))


def _text(record: bytes, field: Field, fixed: int) -> str:
    if field.kind is Kind.CHARS:
        raw = record[field.offset : field.end]
    else:
        where = np.frombuffer(record[field.offset : field.end], "<u4")
        begin, end = (int(edge[0]) for edge in _stretch(where, field))
        raw = record[begin:end] if fixed <= begin and end <= len(record) else b""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
