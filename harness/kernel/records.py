"""Records of /dev/kmsg, as the kernel numbers them.

Reads the raw stream the agent stored; never fails on what a dying machine wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["WIDEST", "Record", "gaps", "parse", "parse_console"]

# Characters of a line that are looked at where a pattern may go back and forth in it: printk's
# own limit is 1024 (PRINTK_MESSAGE_MAX 2048).
WIDEST = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """One printk.  `usec`: printk's clock, microseconds.  `caller`: `T<pid>`, `C<cpu>` or ""."""

    seq: int
    usec: int
    level: int
    facility: int
    caller: str
    text: str

    def lines(self) -> list[str]:
        """The text's lines: one printk may hold several."""
        return self.text.split("\n")


# Documentation/ABI/testing/dev-kmsg: "prefix,seq,usec,flags[,key=value]...;text\n", then
# lines of a dictionary, each after one space; unprintable bytes are written \xNN.
# Numbers of more digits are none of the kernel's, and would fit no 64 bits.
_HEAD = re.compile(
    rb"(?P<prefix>\d{1,18}),(?P<seq>\d{1,18}),(?P<usec>\d{1,18}),[^;,]*(?P<more>[^;]*);(?P<text>.*)"
)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_CALLER = re.compile(rb",caller=([TC]\d+)")


def parse(raw: bytes | Iterable[bytes]) -> Iterator[Record]:
    """Records in `raw` (the stream, or its lines).  A torn or foreign line is passed over."""
    lines = raw.splitlines() if isinstance(raw, bytes) else raw
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            continue
        prefix = int(head["prefix"])
        text = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), head["text"])
        caller = _CALLER.search(head["more"])
        yield Record(
            seq=int(head["seq"]),
            usec=int(head["usec"]),
            level=prefix & 7,
            facility=prefix >> 3,
            caller=caller[1].decode() if caller else "",
            text=text.decode("utf-8", "replace"),
        )


# "[   28.086861][  T151] text"; others may have written before it on the same line.
_CONSOLE = re.compile(rb"\[\s*(\d{1,12})\.(\d{6})\](?:\[\s*([TC]\d+)\])? ?(.*)")


def parse_console(raw: bytes | Iterable[bytes]) -> Iterator[Record]:
    """Records as a serial console shows them: `seq` is the line's number, from 1.

    Levels are not shown there, so all have the kernel's default; lines that carry no
    printk time are passed over.
    """
    lines = raw.splitlines() if isinstance(raw, bytes) else raw
    for number, line in enumerate(lines, 1):
        if match := _CONSOLE.search(line):
            yield Record(
                seq=number,
                usec=int(match[1]) * 1_000_000 + int(match[2]),
                level=4,
                facility=0,
                caller=(match[3] or b"").decode(),
                text=match[4].rstrip(b"\r\n").decode("utf-8", "replace"),
            )


def gaps(records: Iterable[Record]) -> list[tuple[int, int]]:
    """Stretches of sequence numbers, both inclusive, that are missing: records the kernel
    overwrote before they were read."""
    missing = []
    before: int | None = None
    for record in records:
        if before is not None and record.seq > before + 1:
            missing.append((before + 1, record.seq - 1))
        before = record.seq
    return missing
