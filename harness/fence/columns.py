"""Records of one event → columns: every field an array, every text a number.

Offsets and sizes are the format file's; rows are gathered whole arrays at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.fence.formats import Field, Format, Kind
from harness.fence.pages import Index, Ints, Words
from harness.fence.strings import Strings

__all__ = ["Chunk", "Column", "Texts", "column", "empty"]

Column = NDArray[Any]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

_LOCATED = (Kind.DATA_LOC, Kind.REL_LOC)
_TEXT = (*_LOCATED, Kind.CHARS)
# Masks that keep the first n bytes of a little-endian word.
_KEEP = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)
_CACHE_BITS = 14


class Chunk:
    """A stretch of pages, seen as units of 1, 2 and 4 bytes."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.bytes = data.reshape(-1)
        self.halves = self.bytes.view("<u2")
        self.words: Words = self.bytes.view("<u4")

    def number(self, base: Index, offset: int, size: int, signed: bool) -> Column:
        """The number of `size` bytes, `offset` bytes behind each word of `base`."""
        kind = np.dtype(f"<{'i' if signed else 'u'}{size}")
        if offset % min(size, 4):
            where = (base * 4 + offset)[:, None] + np.arange(size)
            odd: Column = self.bytes[where].view(kind).reshape(-1)
            return odd
        if size == 8:
            pair = np.empty((len(base), 2), np.uint32)
            pair[:, 0] = self.words.take(base + offset // 4)
            pair[:, 1] = self.words.take(base + (offset // 4 + 1))
            long: Column = pair.view(kind).reshape(-1)
            return long
        if size == 4:
            return self.words.take(base + offset // 4).view(kind)
        if size == 2:
            return self.halves.take(base * 2 + offset // 2).view(kind)
        return self.bytes.take(base * 4 + offset).view(kind)

    def rows(self, base: Index, field: Field) -> Column:
        """An array of `field.count` numbers for each word of `base`."""
        kind = np.dtype(f"<{'i' if field.signed else 'u'}{field.width}")
        raw: Column
        if field.offset % 4 or field.size % 4:
            raw = self.bytes[(base * 4 + field.offset)[:, None] + np.arange(field.size)]
        else:
            raw = np.empty((len(base), field.size // 4), np.uint32)
            for word in range(field.size // 4):
                raw[:, word] = self.words.take(base + (field.offset // 4 + word))
        found: Column = raw.view(kind).reshape(-1, field.count)
        return found


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
    looks at one row of each kind.  The hash's keys are drawn anew in each process, so that nothing
    a target writes can make two texts collide but by chance (multilinear hashing: at most 2^-33 a
    pair).
    """

    def __init__(self, format_: Format, strings: Strings) -> None:
        self.fields = [field for field in format_.own if field.kind in _TEXT]
        self._located = [field for field in self.fields if field.kind in _LOCATED]
        self._chars = [field for field in self.fields if field.kind is Kind.CHARS]
        self._fixed = format_.fixed
        self._strings = strings
        self._random = np.random.default_rng()
        self._seed = self._random.integers(1, 1 << 63, dtype=np.uint64)
        self._keys = np.empty(0, np.uint64)
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
        key = 0
        for field in self._chars:
            for word in range(field.offset // 4, (field.end + 3) // 4):
                mask = _within(word, field.offset, field.end)
                self._add(total, chunk.words.take(base + word) & mask, key)
                key += 1
        if not self._located:
            return total, None
        ends = np.zeros(len(base), np.int64)
        wrong = np.zeros(len(base), np.bool_)
        for field in self._located:
            where = chunk.number(base, field.offset, 4, False)
            self._add(total, where, key)
            key += 1
            begin, end = _stretch(where, field)
            wrong |= begin < self._fixed
            np.maximum(ends, end, out=ends)
        wrong |= ends > 4 * length
        some_wrong = bool(wrong.any())
        if some_wrong:
            ends[wrong] = 0
        self._add_tail(total, chunk, base, ends, key)
        return total, wrong if some_wrong else None

    def _add_tail(self, total: Hashes, chunk: Chunk, base: Index, ends: Ints, key: int) -> None:
        """What lies between the fixed part and the end of the last text; what is behind that in
        its last word was never written."""
        first, most, least = self._fixed // 4, int(ends.max()), int(ends.min())
        rows: Index | None = None
        for word in range(first, (most + 3) // 4):
            if 4 * word + 4 <= least:
                words = chunk.words.take(base + word)
                if 4 * word < self._fixed:
                    words &= _within(word, self._fixed, least)
                self._add(total, words, key + word - first)
                continue
            # Fewer and fewer texts are that long.
            rows = np.flatnonzero(ends > 4 * word) if rows is None else rows[ends[rows] > 4 * word]
            kept = _KEEP[np.minimum(ends[rows] - 4 * word, 4)]
            kept &= _within(word, self._fixed, most)
            part = np.zeros(len(rows), np.uint64)
            self._add(part, chunk.words[base[rows] + word] & kept, key + word - first)
            total[rows] += part

    def _add(self, total: Hashes, words: Words, key: int) -> None:
        if key >= len(self._keys):
            more = self._random.integers(0, 1 << 63, 64, np.uint64) * np.uint64(2) + np.uint64(1)
            self._keys = np.append(self._keys, more)
        total += np.multiply(words, self._keys[key], dtype=np.uint64)

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


def _within(word: int, begin: int, end: int) -> np.uint32:
    """The mask of those bytes of a word that lie in [begin, end)."""
    low, high = max(begin - 4 * word, 0), min(end - 4 * word, 4)
    return np.uint32(_KEEP[max(high, 0)] & ~_KEEP[min(low, 4)])


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
