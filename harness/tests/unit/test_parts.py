"""Logs in several files: pstore's parts in order, others as they were given."""

from __future__ import annotations

import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernel.parts import one_log, ordered
from harness.lab import dmesg
from harness.tests.reports import REPORTS, printed

KASAN = b"".join(printed(REPORTS["kasan"][0]))


def cut(log: bytes, dump: int, parts: int) -> list[bytes]:
    """As kmsg_dump() hands a log out: its end is part 1."""
    lines = log.splitlines(keepends=True)
    size = -(-len(lines) // parts)
    pieces = [b"".join(lines[n : n + size]) for n in range(0, len(lines), size)]
    return [
        b"Panic#%d Part%d\n" % (dump, len(pieces) - n) + piece for n, piece in enumerate(pieces)
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_parts_in_any_order_are_the_log(dumps: int, parts: int, dice: random.Random) -> None:
    pieces = [piece for dump in range(dumps) for piece in cut(KASAN, dump + 1, parts)]
    dice.shuffle(pieces)
    assert ordered(b"".join(pieces)) == KASAN * dumps
    files = [io.BytesIO(piece) for piece in pieces]
    assert one_log(files).read() == KASAN * dumps


def test_a_report_over_two_files_is_found_whole() -> None:
    one, two = cut(KASAN, 1, 2)
    (group,) = dmesg.read(one_log([io.BytesIO(two), io.BytesIO(one)])).failures
    assert (group.splat.title, len(group.splat.lines)) == (
        REPORTS["kasan"][1],
        len(REPORTS["kasan"][0]) - 1,
    )


def test_other_files_stay_in_their_order_and_end_their_lines() -> None:
    files = [io.BytesIO(b"one"), io.BytesIO(b""), io.BytesIO(b"two\n" * 300_000)]
    assert list(one_log(files)) == [b"one\n", *[b"two\n"] * 300_000]


def test_what_only_looks_like_a_part_is_left() -> None:
    for log in (b"", b"Panic#1 Part", b"see Panic#1 Part1\n", b"a\nPanic#1 Part2 of\n"):
        assert ordered(log) == log
