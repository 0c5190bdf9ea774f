"""What is wrong in a TOML file, told in the file's own terms.

Turns msgspec's validation message into file, line, key, what was expected and
the nearest name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from harness.errors import UsageError

__all__ = ["explained", "line_of", "nearest", "not_toml"]

_AT = re.compile(r" - at `\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<field>.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>.*)`$", re.DOTALL)
_INVALID = re.compile(r"Invalid (?:enum )?value (?P<value>.*)$", re.DOTALL)
_PLACE = re.compile(r" \(at line (?P<line>\d+), column \d+\)$")
# msgspec speaks of Python's types; the reader has a TOML file before him.
_WORDS = {
    "`object`": "a table",
    "`array`": "an array",
    "`str`": "a string",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`null`": "nothing",
    "`date`": "a date",
    "`datetime`": "a date and time",
    "`time`": "a time of day",
}


def not_toml(path: Path, text: str, error: tomllib.TOMLDecodeError) -> UsageError:
    """The error for a text that tomllib refuses."""
    message = str(error)
    place = _PLACE.search(message)
    # "at end of document": the last line.
    line = int(place["line"]) if place else text.count("\n") + 1
    return UsageError(
        f"not TOML: {_PLACE.sub('', message)}",
        where=f"{path}:{line}",
        cure='mend that line; strings want "quotes", tables [brackets]',
    )


def explained(
    path: Path, text: str, raw: dict[str, Any], root: type[Struct], error: Exception
) -> UsageError:
    """The error for `raw`, parsed from `text`, which msgspec would not convert to `root`."""
    message = str(error)
    at = _AT.search(message)
    if at:
        message = message[: at.start()]
    keys, kind = _walk(raw, root, at["path"] if at else "")
    cure = f"see the commented examples in the {path.name} that comes with the harness"
    if unknown := _UNKNOWN.search(message):
        field = unknown["field"]
        names = _fields(kind)
        keys = (*keys, field)
        message = f"unknown key {field!r}{nearest(field, names)}"
        cure = f"remove or respell it; known here: {', '.join(sorted(names))}"
    elif missing := _MISSING.search(message):
        message = f"the key {missing['field']!r} is missing"
        if choices := _choices(kind, missing["field"]):
            message += f": one of {', '.join(map(repr, choices))}"
    elif invalid := _INVALID.search(message):
        value = invalid["value"].strip("'\"")
        choices = _choices(kind, keys[-1])
        message = f"expected one of {', '.join(map(repr, choices))}, got {value!r}"
        message += nearest(value, choices)
    elif "matching regex" in message and (meant := _meaning(kind, _named(keys))):
        message = f"expected {meant}"
    else:
        for word, meant in _WORDS.items():
            message = message.replace(word, meant)
        message = message[:1].lower() + message[1:]
    return UsageError(
        f"{'.'.join(keys)}: {message}", where=f"{path}:{line_of(text, keys)}", cure=cure
    )


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """The line where the statement that makes `keys` begins, counted from 1.

    That of the nearest enclosing table when the key itself is not there.  Found
    by parsing ever shorter beginnings of the text, so that strings, comments,
    dotted keys and inline tables are what TOML says they are.
    """
    keys = _existing(text, keys)
    if not keys:
        return 1
    lines = text.split("\n")
    absent, there = 0, len(lines)
    while there - absent > 1:
        middle = (absent + there) // 2
        whole = _whole(lines, middle)
        if whole > absent and _has(_parsed(lines, whole), keys):
            there = whole
        else:
            absent = middle
    return _whole(lines, there - 1) + 1


def nearest(word: str, among: Iterable[str]) -> str:
    """ " (did you mean 'x'?)", or nothing when nothing is like `word`."""
    near = difflib.get_close_matches(word, list(among), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _parsed(lines: list[str], count: int) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines[:count]))
    except tomllib.TOMLDecodeError:
        return None


def _whole(lines: list[str], count: int) -> int:
    """The longest beginning of at most `count` lines that ends with a statement's end."""
    while count and _parsed(lines, count) is None:
        count -= 1
    return count


def _has(table: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def _existing(text: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    table = tomllib.loads(text)
    while keys and not _has(table, keys):
        keys = keys[:-1]
    return keys


def _walk(raw: Any, kind: Any, dotted: str) -> tuple[tuple[str, ...], Any]:
    """msgspec's path as keys of the file, and the type expected of the table it ends in.

    For a value, that is the type of the table around it.
    """
    keys: list[str] = []
    around = kind
    for step in _STEP.finditer(dotted):
        if step["field"] or step["index"] == "...":
            around = kind
        name = step["field"] or step["index"]
        if name == "...":
            # A dict's key, which msgspec does not name: the first that fails is the one.
            kind = get_args(_bare(kind))[-1]
            name = next((key for key, value in raw.items() if _fails(value, kind)), "")
        elif step["field"]:
            kind = _type_of(kind, name)
        else:
            kind = Any
        keys.append(name)
        raw = raw.get(name) if isinstance(raw, dict) else None
    return tuple(keys), kind if _structs(kind) and isinstance(raw, dict) else around


def _named(keys: tuple[str, ...]) -> str:
    """The last key that is a name: of an array's element, the array's."""
    return next((key for key in reversed(keys) if not key.isdigit()), "")


def _fails(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return True
    return False


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _structs(kind: Any) -> list[type[Struct]]:
    """The structs a type may be: itself, or those of its union."""
    kind = _bare(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return [struct for member in get_args(kind) for struct in _structs(member)]
    return [kind] if isinstance(kind, type) and issubclass(kind, Struct) else []


def _type_of(kind: Any, field: str) -> Any:
    found = [
        info.type
        for struct in _structs(kind)
        for info in msgspec.structs.fields(struct)
        if info.encode_name == field
    ]
    return found[0] if found else Any


def _fields(kind: Any) -> list[str]:
    """The keys a table of this type may have."""
    names = {name for struct in _structs(kind) for name in struct.__struct_encode_fields__}
    tags = {struct.__struct_config__.tag_field for struct in _structs(kind)}
    return sorted(names | {tag for tag in tags if tag})


def _choices(kind: Any, field: str) -> list[str]:
    """The values a field may have, where they are few: a Literal's, or a union's tags."""
    configs = [struct.__struct_config__ for struct in _structs(kind)]
    tags = [str(config.tag) for config in configs if config.tag_field == field]
    return tags or _literals(_type_of(kind, field))


def _meaning(kind: Any, field: str) -> str:
    """What a field says of itself, in the Meta beside its pattern."""
    found = _type_of(kind, field)
    for member in (found, *get_args(found)):
        for meta in get_args(member) if get_origin(member) is Annotated else ():
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return ""


def _literals(kind: Any) -> list[str]:
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        return [value for member in get_args(kind) for value in _literals(member)]
    return []
