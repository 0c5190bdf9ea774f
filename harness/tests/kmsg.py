"""Turns dmesg text into the raw /dev/kmsg stream it came from, for tests."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["of_dmesg", "raw", "shared"]

_LINE = re.compile(r"^\[\s*(\d+)\.(\d{6})\] ?(?:\[\s*([TC]\d+)\] ?)?(.*)$")


def raw(seq: int, usec: int, text: str, caller: str = "T1", prefix: int = 4) -> bytes:
    """One record as /dev/kmsg shows it."""
    escaped = "".join(c if 32 <= ord(c) < 127 and c != "\\" else f"\\x{ord(c):02x}" for c in text)
    return f"{prefix},{seq},{usec},-,caller={caller};{escaped}\n".encode()


def of_dmesg(text: str, caller: str = "T1", first: int = 0) -> bytes:
    """A dmesg listing as records; a line without a time belongs to the record before it."""
    records: list[tuple[int, str, str]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            usec = int(match[1]) * 1_000_000 + int(match[2])
            records.append((usec, match[3] or caller, match[4]))
        elif records:
            usec, who, before = records[-1]
            records[-1] = (usec, who, f"{before}\n{line}")
    return b"".join(
        raw(first + number, usec, body, who) for number, (usec, who, body) in enumerate(records)
    )


def shared(name: str) -> Path:
    """A sample beside the checkout; it may be absent."""
    return Path(__file__).resolve().parents[3] / "shared" / name
