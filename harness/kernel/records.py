"""Records of /dev/kmsg, as the kernel numbers them.

Reads the raw stream the agent stored; never fails on what a dying machine wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Record", "gaps", "of_console", "parse"]


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
_HEAD = re.compile(
    rb"(?P<prefix>\d+),(?P<seq>\d+),(?P<usec>\d+),[^;,]*(?P<more>[^;]*);(?P<text>.*)"
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


# kernel/printk/printk.c, info_print_prefix(): "[   12.345678][  T123] text".
_CONSOLE = re.compile(
    rb"\[\s*(?P<s>\d+)\.(?P<us>\d{6})\](?:\[\s*(?P<caller>[TC]\d+)\])? (?P<text>[^\r\n]*)"
)


def of_console(raw: bytes) -> Iterator[Record]:
    """What a console shows of the kernel log, each line a record.

    `seq` is the line's number, from 0; level and facility are not shown there: 0.
    """
    for number, line in enumerate(raw.split(b"\n")):
        head = _CONSOLE.match(line)
        if head is not None:
            usec = int(head["s"]) * 1_000_000 + int(head["us"])
            caller = (head["caller"] or b"").decode()
            yield Record(number, usec, 0, 0, caller, head["text"].decode("utf-8", "replace"))


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
