"""One log out of several, whatever each of them lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.kernel.merge import Gap, Line, merge, read_netconsole, segments
from harness.kernel.records import Record, parse_console


def _record(n: int, text: str = "", seq: int | None = None) -> Record:
    return Record(n if seq is None else seq, n * 1000, 6, 0, "T1", text or f"this is line {n}")


BOOT = [_record(n) for n in range(1, 41)]


def _lines(merged: list[Line | Gap]) -> list[Line]:
    return [line for line in merged if isinstance(line, Line)]


@given(
    st.sets(st.sampled_from(range(40))),
    st.sets(st.sampled_from(range(40))),
    st.sets(st.sampled_from(range(40))),
)
def test_each_line_that_anybody_saw_is_there_once_and_in_order(
    kmsg: set[int], console: set[int], pstore: set[int]
) -> None:
    parts = {
        name: [BOOT[n] for n in sorted(seen)]
        for name, seen in (("kmsg", kmsg), ("console", console), ("pstore", pstore))
    }
    merged = merge(parts.pop("kmsg"), parts)
    lines = _lines(merged.lines)
    wanted = sorted(kmsg | console | pstore)
    assert [line.text for line in lines] == [BOOT[n].text for n in wanted]
    for n, line in zip(wanted, lines, strict=True):
        seen = [
            name
            for name, on in (("kmsg", kmsg), ("console", console), ("pstore", pstore))
            if n in on
        ]
        assert list(line.sources) == seen
    gaps = [(gap.first, gap.last) for gap in merged.lines if isinstance(gap, Gap)]
    numbers = sorted(n + 1 for n in kmsg)
    assert gaps == [(a + 1, b - 1) for a, b in itertools.pairwise(numbers) if b > a + 1]


def test_what_fills_a_gap_follows_it() -> None:
    kmsg = [BOOT[0], BOOT[4]]
    merged = merge(kmsg, {"console": BOOT[:5]}).lines
    assert merged[1] == Gap(2, 4, 3)
    assert [line.seq for line in _lines(merged)] == [1, None, None, None, 5]


def test_a_log_that_was_read_again_has_no_duplicates() -> None:
    merged = merge([*BOOT[:9], *BOOT], {})
    assert [line.seq for line in _lines(merged.lines)] == list(range(1, 41))


def test_lines_at_the_same_time_stay_apart_and_cut_ones_are_known_again() -> None:
    same = [_record(3, "first of its time", 3), Record(4, 3000, 6, 0, "T1", "second of its time")]
    cut = [Record(1, 3000, 4, 0, "T1", "second of"), Record(2, 3000, 4, 0, "T1", "third")]
    lines = _lines(merge(same, {"console": cut}).lines)
    assert [(line.text, line.sources) for line in lines] == [
        ("first of its time", ("kmsg",)),
        ("second of its time", ("kmsg", "console")),
        ("third", ("console",)),
    ]


def test_a_record_of_several_lines_meets_each_of_them_on_the_console() -> None:
    report = _record(5, "a report:\n  its second line\n  its third line")
    console = parse_console(
        b"[    0.005000][  T1] a report:\n[    0.005000][  T1]   its second line\n"
        b"[    0.005000][  T1]   its third line\n"
    )
    lines = _lines(merge([report], {"console": console}).lines)
    assert [line.sources for line in lines] == [("kmsg", "console")] * 3


def test_a_console_that_went_on_into_the_next_boot_is_cut() -> None:
    def told(n: int, word: str) -> Record:
        return Record(n, n * 1_000_000, 4, 0, "", f"{word} boot, line {n}")

    old = [told(n, "old") for n in range(20)]
    new = [told(n, "new") for n in range(9)]
    assert [len(part) for part in segments([*old, *new])] == [20, 9]
    merged = merge(old[:15], {"console": [*old, *new]})
    assert merged.foreign == {"console": 9}
    assert [line.text for line in _lines(merged.lines)] == [record.text for record in old]
    assert _lines(merge(new[:2], {"console": [*old, *new]}).lines)[-1].text == "new boot, line 8"


def test_netconsole_is_read_in_both_forms() -> None:
    raw = [b"6,41,5000,-,caller=T1;this is line 5\n", b"[    0.006000][    T1] this is line 6\n"]
    records = list(read_netconsole(raw))
    assert [(r.seq, r.usec, r.text) for r in records] == [
        (41, 5000, "this is line 5"),
        (0, 6000, "this is line 6"),
    ]
    lines = _lines(merge(BOOT[:5], {"netconsole": records}).lines)
    assert lines[4].sources == ("kmsg", "netconsole")
    assert (lines[5].seq, lines[5].sources) == (None, ("netconsole",))
