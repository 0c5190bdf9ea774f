"""Lines of any log -> records: what stands before the text is read and taken off."""

from __future__ import annotations

import pytest

from harness.kernel import formats
from harness.kernel.records import Record

TEXT = "BUG: kernel NULL pointer dereference, address: 0000000000000008"


def one(line: str | bytes) -> Record:
    (record,) = formats.read(line.encode() if isinstance(line, str) else line)
    return record


@pytest.mark.parametrize(
    ("prefix", "usec", "caller"),
    [
        ("", 0, ""),
        ("[   12.345678] ", 12_345_678, ""),
        ("[   12.345678][  T123] ", 12_345_678, "T123"),
        ("[   12.345678][    C0] ", 12_345_678, "C0"),
        ("[    0.043841 ][    T0 ] ", 43_841, "T0"),
        ("<4>[   12.345678] ", 12_345_678, ""),
        ("kern  :warn  : [   12.345678] ", 12_345_678, ""),
        ("kern  :err   : [   12.345678][ T9] ", 12_345_678, "T9"),
        ("[  +0.000012] ", 12, ""),
        ("[<    0.000012>] ", 12, ""),
        ("[   12.345678 <    0.000012>] ", 12_345_678, ""),
        ("[   12.345678] box kernel: ", 12_345_678, ""),
        ("Dec 28 04:26:28 box kernel: [   12.345678] ", 12_345_678, ""),
        ("2020-09-01T11:03:10.971869-07:00 ERR kernel: [   12.345678] ", 12_345_678, ""),
        ("\x1b[32m[   12.345678] \x1b[0m\x1b[31m", 12_345_678, ""),
        ("4,1,12345678,-;", 12_345_678, ""),
        ("4,1,12345678,-,caller=T123;", 12_345_678, "T123"),
        ("4,1,12345678,c;", 12_345_678, ""),
    ],
)
def test_prefixes(prefix: str, usec: int, caller: str) -> None:
    record = one(prefix + TEXT)
    assert (record.text, record.usec, record.caller, record.facility) == (TEXT, usec, caller, 0)


@pytest.mark.parametrize(
    "prefix",
    [
        "[Mon Jan  1 00:00:01 2024] ",
        "[Jan 1 00:01] ",
        "2024-05-01T10:00:00,123456+00:00 ",
        "Dis 28 04:26:28 poopies kernel: ",
        "2020-09-01T11:03:10.971869-07:00 ERR kernel: ",
        "Sep 23 02:31:17 syzkaller kern.err kernel: ",
    ],
)
def test_wall_clocks_only_tell_differences(prefix: str) -> None:
    record = one(prefix + TEXT)
    assert (record.text, record.facility) == (TEXT, 0)
    assert record.usec > 0


@pytest.mark.parametrize(
    "line",
    [
        f"Jul  7 12:00:00 host systemd[1]: {TEXT}",
        f"user  :notice: [   12.345678] {TEXT}",
        f"<12>[   12.345678] {TEXT}",
        f"12,1,12345678,-;{TEXT}",
    ],
)
def test_what_userspace_wrote_is_marked(line: str) -> None:
    record = one(line)
    assert (record.text, bool(record.facility)) == (TEXT, True)


def test_two_writers_on_one_line_are_two_records() -> None:
    line = b"box login: [   36.852785][ T3615] traps: a[   36.852790][    C1] BUG: b"
    found = [(r.text, r.caller) for r in formats.read(line)]
    assert found == [("box login: ", ""), ("traps: a", "T3615"), ("BUG: b", "C1")]


def test_fragments_of_netconsole_are_joined() -> None:
    log = b"6,340,5,-,ncfrag=0/8;onet\n6,340,5,-,ncfrag=4/8;wo!!\n4,341,6,-;next\n"
    assert [r.text for r in formats.read(log)] == ["onetwo!!", "next", ""]


def test_a_fragment_that_never_comes_loses_no_record() -> None:
    log = b"6,340,5,-,ncfrag=0/8;onet\n4,341,6,-;next"
    assert [r.text for r in formats.read(log)] == ["onet", "next"]


def test_old_continuations_are_joined() -> None:
    log = b"6,340,5,c;one\n6,341,5,+; two\n4,342,6,-;next"
    assert [r.text for r in formats.read(log)] == ["one two", "next"]


def test_dictionaries_and_escapes_of_kmsg() -> None:
    log = b"6,340,5,-;one\\x0atwo\n SUBSYSTEM=pci\n DEVICE=+pci:0000\n4,342,6,-;\\xff next"
    assert [r.text for r in formats.read(log)] == ["one\ntwo", "\ufffd next"]


def test_lines_of_one_message_keep_its_time_and_caller() -> None:
    log = b"[   12.345678][ T5] first\n               but task is already holding lock:\n"
    found = list(formats.read(log))
    assert [(r.usec, r.caller) for r in found[:2]] == [(12_345_678, "T5")] * 2
