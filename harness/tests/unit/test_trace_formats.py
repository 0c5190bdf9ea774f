"""Format files, as kernels of several versions write them."""

from __future__ import annotations

import pytest

from harness.errors import LabError
from harness.fence.formats import Kind, parse_entry, parse_event, parse_page

COMMON = """\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""


def event(*fields: str) -> str:
    return "name: it\nID: 42\nformat:\n" + COMMON + "\n" + "\n".join(fields) + '\n\nprint fmt: ""\n'


@pytest.mark.parametrize(
    ("line", "name", "kind", "count"),
    [
        ("field:u64 id;\toffset:8;\tsize:8;\tsigned:0;", "id", Kind.NUMBER, 1),
        ("field:u64 id; offset:8; size:8;", "id", Kind.NUMBER, 1),
        ("field:struct dma_fence * fence;\toffset:8;\tsize:8;\tsigned:0;", "fence", Kind.NUMBER, 1),
        ("field:unsigned long args[6];\toffset:8;\tsize:48;\tsigned:0;", "args", Kind.ARRAY, 6),
        ("field:u32 few[N_OF_THEM];\toffset:8;\tsize:12;\tsigned:0;", "few", Kind.ARRAY, 12),
        ("field:char comm[16];\toffset:8;\tsize:16;\tsigned:0;", "comm", Kind.CHARS, 1),
        # After TASK_COMM_LEN had become an enumerator.
        ("field:char comm[TASK_COMM_LEN];\toffset:8;\tsize:16;\tsigned:0;", "comm", Kind.CHARS, 1),
        ("field:__data_loc char[] name;\toffset:8;\tsize:4;\tsigned:0;", "name", Kind.DATA_LOC, 1),
        # Of a synthetic or probe event.
        ("field:__data_loc char[] s;\toffset:8;\tsize:4;\tsigned:1;", "s", Kind.DATA_LOC, 1),
        ("field:__rel_loc char[] name;\toffset:8;\tsize:4;\tsigned:0;", "name", Kind.REL_LOC, 1),
        ("field:__data_loc u8[] raw;\toffset:8;\tsize:4;\tsigned:0;", "raw", Kind.OPAQUE, 1),
        ("field:struct timespec64 at;\toffset:8;\tsize:16;\tsigned:0;", "at", Kind.ARRAY, 16),
        ("field:unsigned long buf[];\toffset:8;\tsize:0;\tsigned:0;", "buf", Kind.OPAQUE, 1),
        ("field:bool yes;\toffset:8;\tsize:1;\tsigned:0;", "yes", Kind.NUMBER, 1),
    ],
)
def test_a_field(line: str, name: str, kind: Kind, count: int) -> None:
    parsed = parse_event("test:it", event(line))
    (field,) = parsed.own
    assert (parsed.name, parsed.id) == ("test:it", 42)
    assert (field.name, field.kind, field.count, field.offset) == (name, kind, count, 8)


def test_common_fields_are_there_but_not_its_own() -> None:
    parsed = parse_event("test:it", event("field:int x;\toffset:8;\tsize:4;\tsigned:1;"))
    pid = parsed.field("common_pid")
    assert pid is not None
    assert (pid.offset, pid.size, pid.signed) == (4, 4, True)
    assert [field.name for field in parsed.own] == ["x"]
    assert parsed.fixed == 12
    assert parsed.field("y") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no ID"),
        (event().replace("ID: 42", "ID: many"), "no ID"),
        (event().replace("common_pid", "common_tid"), "common_pid"),
        (event("field:int x; offset:8;"), "no field"),
        (event("field:; offset:8; size:4;"), "no field"),
        (event("field:int 7; offset:8; size:4;"), "without a name"),
        (event("field:int x; offset:8; size:99999999;"), "99999999 bytes"),
        (event(*["field:int x; offset:8; size:4;"] * 2), "twice"),
    ],
)
def test_what_is_no_format(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        parse_event("test:it", text)


PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:4;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:12;\tsize:4084;\tsigned:1;\n"
)


def test_a_page_of_a_32_bit_machine() -> None:
    page = parse_page(PAGE)
    assert (page.timestamp, page.commit, page.commit_size, page.data) == (0, 8, 4, 12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PAGE.replace("data;", "date;"), "lacks"),
        (PAGE.replace("offset:12", "offset:13"), "layout"),
        (PAGE.replace("offset:12", "offset:8"), "behind"),
        (PAGE.replace("size:4;", "size:2;"), "layout"),
    ],
)
def test_what_is_no_page(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        parse_page(text)


ENTRY = (
    "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n"
    "\tarray       :   32 bits\n\n\tpadding     : type == 29\n\ttime_extend : type == 30\n"
    "\ttime_stamp : type == 31\n\tdata max type_len  == 28\n"
)


def test_a_record_header() -> None:
    entry = parse_entry(ENTRY)
    kinds = (entry.data_max, entry.padding, entry.time_extend, entry.time_stamp)
    assert kinds == (28, 29, 30, 31)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTRY.replace("27 bits", "28 bits"), "headers other than"),
        (ENTRY.replace("padding ", "pudding "), "lacks a record type"),
        (ENTRY.replace("== 30", "== 29"), "overlap"),
        (ENTRY.replace("== 28", "== 30"), "overlap"),
        (ENTRY.replace("== 31", "== 32"), "overlap"),
    ],
)
def test_what_is_no_record_header(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        parse_entry(text)
