"""A trace decoded the slow way: one record after the other, with struct.

Shares nothing with harness.fence but its rules, so that the two can be held against each other.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Decoded", "Row", "decode"]

NEVER = 1 << 62
MISSED, STORED = 1 << 31, 1 << 30
CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
Losses = list[tuple[int, int, int, int | None]]


@dataclass(frozen=True)
class Row:
    """One event."""

    time: int
    cpu: int
    pid: int
    values: dict[str, Any]


@dataclass
class Decoded:
    """Rows of each event by time, and (cpu, after, before, count) of what was lost."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    losses: Losses = field(default_factory=list)


@dataclass
class Event:
    name: str
    number: int
    fields: list[tuple[str, str, int, int, bool]]


def decode(path: Path) -> Decoded:
    """Everything in a trace directory."""
    meta = json.loads((path / "meta.json").read_text())
    header = {
        name: (offset, size)
        for _, name, offset, size, _ in fields((path / "formats/header_page").read_text())
    }
    events = {event.number: event for event in formats(path)}
    done = Decoded({event.name: [] for event in events.values()})
    for cpu in sorted(meta["cpus"]):
        raw = (path / f"cpu{cpu}.raw").read_bytes()
        size = meta["page_size"]
        pages = [raw[at : at + size] for at in range(0, len(raw) // size * size, size)]
        one_cpu(cpu, pages, header, events, done)
    for rows in done.rows.values():
        rows.sort(key=lambda row: row.time)
    done.losses.sort(key=lambda loss: (loss[1], loss[0]))
    return done


def fields(text: str) -> list[tuple[str, str, int, int, bool]]:
    found = []
    for line in text.splitlines():
        match = re.match(
            r"\s*field:(.*?)\s*(\w+)(\[[^;]*\])?;\s*offset:(\d+);\s*size:(\d+);(?:\s*signed:(\d);)?",
            line,
        )
        if match:
            kind = match[1] + (match[3] or "")
            found.append((kind, match[2], int(match[4]), int(match[5]), match[6] == "1"))
    return found


def formats(path: Path) -> Iterator[Event]:
    for file in sorted((path / "formats").glob("*/*")):
        text = file.read_text()
        number = re.search(r"ID: (\d+)", text)
        assert number
        yield Event(f"{file.parent.name}:{file.name}", int(number[1]), fields(text))


def one_cpu(
    cpu: int,
    pages: list[bytes],
    header: dict[str, tuple[int, int]],
    events: dict[int, Event],
    done: Decoded,
) -> None:
    last, was_broken = 0, False
    width = header["commit"][1]
    begin = header["data"][0]
    for page in pages:
        (own,) = struct.unpack_from("<Q", page, header["timestamp"][0])
        commit = int.from_bytes(page[header["commit"][0] :][:width], "little")
        used = commit & ~(MISSED | STORED)
        broken = own >= NEVER or used > len(page) - begin or used % 4 != 0
        own = min(own, NEVER)
        lost = -1
        if commit & MISSED and commit & STORED and begin + used + width <= len(page):
            lost = int.from_bytes(page[begin + used :][:width], "little")
        times: list[int] = []
        found: list[tuple[int, bytes]] = []
        if not broken:
            broken = not one_page(page[begin : begin + used], own, times, found)
        first = times[0] if times else own
        missed = bool(commit & MISSED)
        if missed or was_broken or first < last:
            known = missed and not was_broken and first >= last and 0 <= lost < NEVER
            done.losses.append((cpu, min(first, last), max(first, last), lost if known else None))
        for time, data in found:
            event = events.get(int.from_bytes(data[:2], "little")) if data else None
            if event is not None:
                row = one_row(event, time, cpu, data)
                if row is None:
                    done.losses.append((cpu, time, time, 1))
                else:
                    done.rows[event.name].append(row)
        last = max(last, times[-1] if times else own)
        was_broken = broken
    if was_broken:
        done.losses.append((cpu, last, NEVER, None))


def one_page(data: bytes, time: int, times: list[int], found: list[tuple[int, bytes]]) -> bool:
    """Whether it could be read to its end."""
    at, own = 0, time
    while at < len(data):
        (head,) = struct.unpack_from("<I", data, at)
        kind, delta = head & 31, head >> 5
        more = struct.unpack_from("<I", data, at + 4)[0] if at + 8 <= len(data) else None
        payload = b""
        if kind == 29 and not delta:
            return True
        if kind in (0, 29, 30, 31):
            if more is None:
                return False
            length = 8 if kind >= 30 else 4 + (more + 3) // 4 * 4
            if kind == 0 and more < 4:
                return False
        else:
            length = 4 + 4 * kind
        if at + length > len(data):
            return False
        if kind == 31:
            absolute = (more or 0) << 27 | delta | own >> 59 << 59
            time = absolute + (1 << 59 if absolute < own else 0)
        elif kind == 30:
            time += (more or 0) << 27 | delta
        elif kind == 29:
            time += delta if delta != 1 else 0
        else:
            time += delta
            payload = data[at + (4 if kind else 8) : at + length]
            found.append((time, payload))
        times.append(time)
        at += length
    return True


def one_row(event: Event, time: int, cpu: int, data: bytes) -> Row | None:
    if len(data) < max(offset + size for _, _, offset, size, _ in event.fields):
        return None
    values: dict[str, Any] = {}
    for kind, name, offset, size, signed in event.fields:
        raw = data[offset : offset + size]
        if "_loc" in kind:
            (where,) = struct.unpack("<I", raw)
            start = (where & 0xFFFF) + (offset + size if kind.startswith("__rel") else 0)
            fixed = max(offset + size for _, _, offset, size, _ in event.fields)
            if start < fixed or start + (where >> 16) > len(data):
                return None
            values[name] = text(data[start : start + (where >> 16)])
        elif kind.startswith("char"):
            values[name] = text(raw)
        elif "[" in kind:
            count = int(kind.split("[")[1].rstrip("]"))
            code = CODES[size // count]
            values[name] = list(struct.unpack(f"<{count}{code if signed else code.upper()}", raw))
        else:
            values[name] = int.from_bytes(raw, "little", signed=signed)
    own = {name: value for name, value in values.items() if not name.startswith("common_")}
    return Row(time, cpu, values["common_pid"], own)


def text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "backslashreplace")
