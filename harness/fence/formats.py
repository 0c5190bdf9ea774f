"""What the target says of its own ring buffer: its tracefs format files, parsed.

Nothing of a page, a record or an event is known beforehand but the language of these files.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import lru_cache

from harness.errors import LabError

__all__ = ["Entry", "Field", "Format", "Kind", "Page", "parse_entry", "parse_event", "parse_page"]


class Kind(enum.Enum):
    """How a field's bytes are to be read."""

    NUMBER = "number"
    ARRAY = "array"
    CHARS = "chars"
    """`char name[N]`: text up to the first NUL."""
    DATA_LOC = "data_loc"
    """A u32: length << 16 | offset of the text from the record's beginning."""
    REL_LOC = "rel_loc"
    """The same, but counted from the end of this very field."""
    OPAQUE = "opaque"
    """Dynamic data that is no text: left out."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `offset` and `size` in bytes, `count` elements of `size // count` bytes each."""

    name: str
    kind: Kind
    offset: int
    size: int
    signed: bool
    count: int = 1

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.size

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return self.size // self.count


@dataclass(frozen=True, slots=True)
class Format:
    """One event's records.  `fields` holds the common ones too."""

    name: str
    id: int
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        """By name."""
        return next((field for field in self.fields if field.name == name), None)

    @property
    def own(self) -> tuple[Field, ...]:
        """All but the common ones."""
        return tuple(field for field in self.fields if not field.name.startswith("common_"))

    @property
    def fixed(self) -> int:
        """Bytes of the part that every record has."""
        return max(field.end for field in self.fields)


@dataclass(frozen=True, slots=True)
class Page:
    """events/header_page: where a sub-buffer's own fields and its records are, in bytes."""

    timestamp: int
    commit: int
    commit_size: int
    """Also the size of the target's `long`: `commit` is a local_t."""
    data: int


@dataclass(frozen=True, slots=True)
class Entry:
    """events/header_event: the numbers of the record types that hold no event."""

    padding: int
    time_extend: int
    time_stamp: int
    data_max: int


# "field:unsigned int context;	offset:16;	size:4;	signed:0;"  `signed` came with 2.6.33.
_FIELD = re.compile(
    r"^\s*field:\s*(?P<what>[^;]+);\s*offset:\s*(?P<offset>\d+);\s*size:\s*(?P<size>\d+);"
    r"(?:\s*signed:\s*(?P<signed>[01]);)?\s*$"
)
_ID = re.compile(r"^ID:\s*(\d+)\s*$", re.MULTILINE)
_BITS = re.compile(r"^\s*(type_len|time_delta|array)\s*:\s*(\d+) bits", re.MULTILINE)
_TYPE = re.compile(r"^\s*(padding|time_extend|time_stamp)\s*:\s*type == (\d+)", re.MULTILINE)
_DATA_MAX = re.compile(r"^\s*data max type_len\s*==\s*(\d+)", re.MULTILINE)
_NAME = re.compile(r"(?P<type>.*?)(?P<name>[A-Za-z_]\w*)(?P<array>\[[^\]]*\])?$", re.DOTALL)

# C types of which a text may consist; what else has one byte is a number.
_CHAR = re.compile(r"\b(char|string|ustring)\b")
# More than any event has; a file of the target is not to cost us our memory.
_LONGEST = 1 << 16
_HEADER_BITS = {"type_len": 5, "time_delta": 27, "array": 32}


# Each test's account opens its boot's trace anew.
@lru_cache(maxsize=256)
def parse_event(name: str, text: str) -> Format:
    """`name` is "system:event".  Raises LabError where `text` is no format file."""
    number = _ID.search(text)
    fields = tuple(_fields(name, text))
    names = {field.name for field in fields}
    if number is None or not {"common_type", "common_pid"} <= names:
        raise _broken(name, "has no ID, common_type or common_pid")
    if len(names) != len(fields):
        raise _broken(name, "names a field twice")
    return Format(name, int(number[1]), fields)


def parse_page(text: str) -> Page:
    """events/header_page.  Raises LabError where it is none."""
    found = {field.name: field for field in _fields("header_page", text)}
    if not {"timestamp", "commit", "data"} <= found.keys():
        raise _broken("header_page", "lacks timestamp, commit or data")
    timestamp, commit, data = found["timestamp"], found["commit"], found["data"]
    if timestamp.size != 8 or commit.size not in (4, 8) or data.offset % 4:
        raise _broken("header_page", "is of a layout that no kernel has")
    if max(timestamp.end, commit.end) > data.offset:
        raise _broken("header_page", "has fields behind the data's beginning")
    return Page(timestamp.offset, commit.offset, commit.size, data.offset)


def parse_entry(text: str) -> Entry:
    """events/header_event.  Raises LabError where it is none or tells of other headers."""
    bits = {match[1]: int(match[2]) for match in _BITS.finditer(text)}
    types = {match[1]: int(match[2]) for match in _TYPE.finditer(text)}
    most = _DATA_MAX.search(text)
    if bits != _HEADER_BITS:
        raise _broken("header_event", f"has headers other than {_HEADER_BITS}")
    if most is None or not {"padding", "time_extend"} <= types.keys():
        raise _broken("header_event", "lacks a record type")
    entry = Entry(types["padding"], types["time_extend"], types.get("time_stamp", 31), int(most[1]))
    special = (entry.padding, entry.time_extend, entry.time_stamp)
    if len({*special}) != 3 or not entry.data_max < min(special) or max(special) > 31:
        raise _broken("header_event", "has record types that overlap")
    return entry


def _fields(name: str, text: str) -> list[Field]:
    found = []
    for line in text.splitlines():
        if not line.lstrip().startswith("field:"):
            continue
        match = _FIELD.match(line)
        if match is None:
            raise _broken(name, f"has a line that is no field: {line.strip()[:80]!r}")
        offset, size = int(match["offset"]), int(match["size"])
        if offset + size > _LONGEST:
            raise _broken(name, f"has a field of {size} bytes at {offset}")
        field = _field(match["what"].strip(), offset, size, match["signed"] == "1")
        if field is None:
            raise _broken(name, f"has a field without a name: {line.strip()[:80]!r}")
        found.append(field)
    return found


def _field(what: str, offset: int, size: int, signed: bool) -> Field | None:
    match = _NAME.match(what)
    if match is None:
        return None
    kind, name = match["type"].strip(), match["name"]
    for prefix, located in (("__data_loc", Kind.DATA_LOC), ("__rel_loc", Kind.REL_LOC)):
        if kind.startswith(prefix):
            text = _CHAR.search(kind) is not None and size == 4
            return Field(name, located if text else Kind.OPAQUE, offset, size, False)
    if match["array"] is None:
        if size in (1, 2, 4, 8):
            return Field(name, Kind.NUMBER, offset, size, signed)
        # A structure, or nothing at all.
        return Field(name, Kind.ARRAY if size else Kind.OPAQUE, offset, size, False, max(size, 1))
    if size == 0:
        return Field(name, Kind.OPAQUE, offset, size, False)
    if _CHAR.search(kind):
        return Field(name, Kind.CHARS, offset, size, False)
    # The number may be the name of a constant there, so that it cannot always be had.
    length = match["array"][1:-1].strip()
    count = int(length) if length.isdecimal() and int(length) else size
    if size % count or size // count not in (1, 2, 4, 8):
        count, signed = size, False
    return Field(name, Kind.ARRAY, offset, size, signed, count)


def _broken(name: str, why: str) -> LabError:
    return LabError(
        f"the trace format of {name} {why}",
        where=name,
        cure="record again; the file is below trace/formats of the boot",
    )
