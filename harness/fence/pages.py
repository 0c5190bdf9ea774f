"""Ring-buffer pages → places and times of their records, all pages of a chunk at once.

Records vary in length, so that one cannot be found without the one before it; but pages do not
depend on each other: step k takes the k-th record of every page.
Layout and meaning: kernel/trace/ring_buffer.c (struct buffer_data_page, rb_event_length,
rb_read_data_buffer, ring_buffer_read_page), include/linux/ring_buffer.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.fence.formats import Entry, Page

__all__ = [
    "BETWEEN",
    "FLAGS",
    "NEVER",
    "Layout",
    "Records",
    "Words",
    "chunk_for",
    "page_times",
    "records",
]

Words = NDArray[np.uint32]
Ints = NDArray[np.int64]
Index = NDArray[np.intp]
Bools = NDArray[np.bool_]

# RB_MISSED_EVENTS, RB_MISSED_STORED of ring_buffer.c: flags in the commit field.
_MISSED = np.uint64(1 << 31)
_STORED = np.uint64(1 << 30)
FLAGS = 3 << 30
# A header's bits: type_len 5, time_delta 27; more of a time lies in the word behind it.
_TYPE_MASK = np.uint32(31)
_DELTA_BITS = 5
_EXTEND_BITS = 27
# rb_fix_abs_ts(): an absolute time lacks the five upper bits.
_ABSOLUTE_BITS = 59
# Above all times that are believed.
NEVER = 1 << 62
# In place of a length that a record's header does not tell: beyond every page's end.
_UNTOLD = 1 << 40
# Bytes between the pages of a chunk: a record may be looked into before its length is checked.
BETWEEN = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one target's pages; `page_size` in bytes."""

    page_size: int
    page: Page
    entry: Entry

    @property
    def stride(self) -> int:
        """Bytes from page to page in a chunk."""
        return self.page_size + BETWEEN


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a chunk, page after page, and what became of each page."""

    payload: Index
    """The word where each record's event begins."""
    length: Ints
    """Words each event has; 0 for a record that holds none."""
    time: Ints
    first: Ints
    last: Ints
    """Of each page: time of the first and the last record; where it is empty its own."""
    missed: Bools
    """Of each page: events were lost before it."""
    count: Ints
    """Of each page: how many, -1 where the kernel does not tell."""
    broken: Bools
    """Of each page: it could not be read to its end."""


def chunk_for(pages: int, layout: Layout) -> NDArray[np.uint8]:
    """A chunk for `pages`: one row each, of which the first page_size bytes are the page."""
    return np.zeros((pages, layout.stride), np.uint8)


def page_times(chunk: NDArray[np.uint8], layout: Layout) -> Ints:
    """The time in ns of each of (pages, page_size) bytes; NEVER where it is nonsense."""
    at = layout.page.timestamp
    times = np.ascontiguousarray(chunk[:, at : at + 8]).view("<u8").reshape(-1)
    believed: Ints = np.minimum(times, np.uint64(NEVER)).astype(np.int64)
    return believed


def records(chunk: NDArray[np.uint8], pages: int, layout: Layout) -> Records:
    """Everything in the first `pages` pages of `chunk`, which is of `chunk_for`."""
    words = chunk.reshape(-1).view("<u4")
    by_page = chunk[:pages, : layout.page_size]
    own = page_times(by_page, layout)
    size, missed, count = _commit(by_page, layout)
    broken = (own == NEVER) | (size > layout.page_size - layout.page.data) | (size % 4 != 0)
    begin = np.arange(pages) * (layout.stride // 4) + layout.page.data // 4
    found, tally = _walk(words, begin, begin + size // 4, broken, layout)
    head = words.take(found)
    kind = head & _TYPE_MASK
    time = _times(words, found, head, kind, tally, own, layout.entry)
    first, last = own.copy(), own.copy()
    ends = np.cumsum(tally)
    some = tally > 0
    first[some], last[some] = time[(ends - tally)[some]], time[ends[some] - 1]

    lengths = np.arange(32)
    lengths[layout.entry.data_max + 1 :] = 0
    payload, length = found + 1, lengths.take(kind)
    long = np.flatnonzero(kind == 0)
    # array[0] counts itself (rb_update_event).
    length[long] = (words[payload[long]].astype(np.int64) + 3) // 4 - 1
    payload[long] += 1
    return Records(payload, length, time, first, last, missed, count, broken)


def _commit(by_page: NDArray[np.uint8], layout: Layout) -> tuple[Ints, Bools, Ints]:
    """Of each page: bytes of records, whether events were lost before it, and how many."""
    at, width = layout.page.commit, layout.page.commit_size
    raw = np.ascontiguousarray(by_page[:, at : at + width]).view(f"<u{width}").reshape(-1)
    commit = raw.astype(np.uint64)
    missed = (commit & _MISSED) != 0
    stored = missed & ((commit & _STORED) != 0)
    # A size above all pages' stays one when it becomes signed.
    size = np.minimum(commit & ~(_MISSED | _STORED), np.uint64(NEVER)).astype(np.int64)
    count = np.full(len(size), -1, np.int64)
    for page in np.flatnonzero(stored):
        where = layout.page.data + int(size[page])
        if where + width <= layout.page_size:
            number = int.from_bytes(by_page[page, where : where + width].tobytes(), "little")
            count[page] = number if number < NEVER else -1
    return size, missed, count


def _walk(
    words: Words, begin: Index, end: Index, broken: Bools, layout: Layout
) -> tuple[Index, Ints]:
    """Words at which records begin, page after page, and how many each page has.

    A page where a record runs over the end, or has a length no record can have, ends before
    that record and becomes `broken`.
    """
    entry = layout.entry
    steps = np.full(32, _UNTOLD, np.intp)
    steps[1 : entry.data_max + 1] = np.arange(1, entry.data_max + 1) + 1
    steps[[entry.time_extend, entry.time_stamp]] = 2
    tally = np.zeros(len(begin), np.int64)
    active = np.flatnonzero(~broken & (end > begin))
    at, limit = begin[active], end[active]
    taken: list[tuple[Index, Index]] = []
    k = 0
    while active.size:
        head = words.take(at)
        step = steps.take(head & _TYPE_MASK)
        following = at + step
        done = following >= limit
        if done.any():
            untold = np.flatnonzero(step == _UNTOLD)
            if untold.size:
                step[untold] = _odd(words, at[untold], head[untold], layout)
                following = at + step
                done = following >= limit
            # A step of 0 is the end of what was written: no record is here.
            wrong = (following > limit) | (step < 0)
            broken[active[wrong]] = True
            stop = wrong | (step == 0)
            tally[active[stop]] = k
            tally[active[done & ~stop]] = k + 1
            good = ~stop
            taken.append((active[good], at[good]))
            on = good & ~done
            active, at, limit = active[on], following[on], limit[on]
        else:
            taken.append((active, at))
            at = following
        k += 1
    starts = np.cumsum(tally) - tally
    found = np.empty(int(tally.sum()), np.intp)
    for number, (pages, places) in enumerate(taken):
        found[starts[pages] + number] = places
    return found, tally


def _odd(words: Words, at: Index, head: Words, layout: Layout) -> Index:
    """Words to the next record from those whose header does not tell: 0 where the rest of
    the page is unused, -1 where no such record exists."""
    size = words[at + 1].astype(np.intp)
    step = (size + 3) // 4 + 1
    kind = head & _TYPE_MASK
    long, padding = kind == 0, kind == layout.entry.padding
    # rb_null_event(): padding without a time is the end of what was written.
    step[padding & (head >> _DELTA_BITS == 0)] = 0
    step[(long & (size < 4)) | ~(long | padding)] = -1
    return step


def _times(
    words: Words,
    found: Index,
    head: Words,
    kind: Words,
    tally: Ints,
    own: Ints,
    entry: Entry,
) -> Ints:
    """Each record's time: its page's, and all deltas since, from the last absolute one on."""
    delta = (head >> _DELTA_BITS).astype(np.int64)
    extended = np.flatnonzero(kind == entry.time_extend)
    delta[extended] += words[found[extended] + 1].astype(np.int64) << _EXTEND_BITS
    # rb_read_data_buffer(): 1 is what a discarded record without a time was given.
    padding = np.flatnonzero(kind == entry.padding)
    delta[padding[delta[padding] == 1]] = 0
    absolute = np.flatnonzero(kind == entry.time_stamp)
    stamp = delta[absolute] + (words[found[absolute] + 1].astype(np.int64) << _EXTEND_BITS)
    delta[absolute] = 0

    some = np.flatnonzero(tally)
    starts = (np.cumsum(tally) - tally)[some]
    base = own[some]
    if absolute.size:
        page = np.searchsorted(starts, absolute, side="right") - 1
        stamp |= base[page] >> _ABSOLUTE_BITS << _ABSOLUTE_BITS
        stamp[stamp < base[page]] += 1 << _ABSOLUTE_BITS
        starts, base = np.concatenate((starts, absolute)), np.concatenate((base, stamp))
        # Stable: where a page begins with an absolute time, that one counts.
        order = np.argsort(starts, kind="stable")
        starts, base = starts[order], base[order]
    total: Ints = np.cumsum(delta)
    spans = np.diff(np.append(starts, len(delta)))
    total += np.repeat(base - (total[starts] - delta[starts]), spans)
    return total
