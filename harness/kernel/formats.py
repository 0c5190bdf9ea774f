"""Lines of any kernel log -> records: what stands before the text is read and taken off.

Knows /dev/kmsg and netconsole's extended form, dmesg in its time formats, -r and -x, printk's
caller ids, syslog and journald, and the serial console with what it does to lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import re2

from harness.errors import UsageError
from harness.kernel.records import Record

__all__ = ["Reader", "looks_like_log", "read", "refuse_packed"]

# Documentation/ABI/testing/dev-kmsg, Documentation/networking/netconsole.rst
_KMSG = re.compile(rb"(\d{1,18}),(\d{1,18}),(\d{1,18}),([-c+])((?:,[^;]*)?);(.*)", re.DOTALL)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_CALLER = re.compile(rb",caller=([TC]\d+)")
_FRAGMENT = re.compile(rb",ncfrag=(\d{1,18})/(\d{1,18})")
# ECMA-48 control sequences: colours of dmesg, of a boot loader, of a login prompt.
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# "[   28.086861][  T151] text".  The same in the middle of a line: two writers shared it.
_STAMP = re.compile(r"\[ *(\d{1,12})\.(\d{6})\](?:\[ *([TC]\d+)\])?(?: |$)")
_TIME = re.compile(
    r"\[ *(?P<sec>\d{1,12})[.,](?P<frac>\d{1,9})(?: *<? *\+?\d*\.?\d*>?)?[,\d]* ?\] ?"
    r"|\[ *\+(?P<step>\d{1,9}\.\d{1,9})\] ?|\[< *(?P<delta>\d{1,9}\.\d{1,9})>\] ?"
    r"|\[(?:\w{3} )?(?P<mon>\w{3}) +(?P<day>\d{1,2}) (?P<clock>\d\d:\d\d(?::\d\d)?)"
    r"(?:\.\d+)?(?: \d{4})?\] ?"
    r"|\[?(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.,]\d+)(?:Z|[+-]\d\d:?\d\d)\]? "
)
_CALLED = re.compile(r"\[ *([TC]\d+) ?\] ?")
_LEVEL = re.compile(r"<(\d{1,3})>(?:\[?\d*\]?)??")
_NAMED = re.compile(
    r"(kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local\d) *:"
    r"(emerg|alert|crit|err|warn|notice|info|debug) *: ?"
)
_LEVELS = {
    name: n
    for n, name in enumerate(("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"))
}
_SYSLOG = re.compile(
    r"(?:\w{3}\.? {1,2}(?P<day>\d{1,2}) (?P<clock>\d\d:\d\d:\d\d)(?:\.\d+)?"
    r"|(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)(?:Z|[+-]\d\d:?\d\d)?) "
    r"(?P<who>(?:[\w.:@()-]+ ){0,2}?)(?P<tag>[\w./() -]{1,48}?(?:\[\d+\])?): ?"
)
# dmesg --time-format=iso has a comma, and no host after it.
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d")
_HOST = re.compile(r"[\w.-]{1,64} kernel: ")
_LONGEST = 1 << 16
# Something of the kernel's stands before a text: a time, a level, a number, or its name.
_SOME = re2.compile(
    rb"(?m)\[ *\d+\.\d{6} ?\]|^<\d{1,3}>|^\d+,\d+,\d+,[-c+]|\bkernel(?:\[\d+\])?: "
    rb"|^(?:kern|user|daemon|syslog) *:[a-z]+ *: |^\[ *[+<]? *\d+[.,]\d+"
    rb"|^\[(?:\w{3} )?\w{3} +\d+ \d\d:\d\d|^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.,]\d"
)
# RFC 1952, RFC 8878, https://tukaani.org/xz/xz-file-format.txt, bzip2's "BZh"
_PACKED = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"\xfd7zXZ\x00": ("xz", "xzcat"),
    b"BZh": ("bzip2", "bzcat"),
}


class Reader:
    """Turns lines, one after the other, into records; keeps what the next line may need."""

    def __init__(self) -> None:
        self.last_seq: int | None = None
        self._usec = 0
        self._caller = ""
        self.numbered = False
        """Whether `seq` is the kernel's own number, and not a line's."""
        self._held: Record | None = None
        self._missing = 0

    def feed(self, raw: bytes, number: int) -> Iterator[Record]:
        """The records that `raw`, the log's line `number`, completes.  Never raises."""
        raw = raw[:_LONGEST].rstrip(b"\r\n\0")
        if raw[:1].isdigit() and (head := _KMSG.match(raw)):
            self.numbered = True
            yield from self._numbered(head)
            return
        if self.numbered and raw[:1] == b" ":
            return  # a line of the dictionary: " SUBSYSTEM=pci"
        yield from self.flush()
        text = raw.decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ANSI.sub("", text)
        if "\r" in text:
            text = text.replace("\r", "")
        yield from self._plain(text, number)

    def flush(self) -> Iterator[Record]:
        """What was held back for a fragment that did not come."""
        if self._held is not None:
            yield self._held
            self._held = None

    def _numbered(self, head: re.Match[bytes]) -> Iterator[Record]:
        prefix, seq, usec, flag, more, body = head.groups()
        text = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), body).decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ANSI.sub("", text)
        caller = _CALLER.search(more)
        record = Record(
            seq=int(seq),
            usec=int(usec),
            level=int(prefix) & 7,
            facility=int(prefix) >> 3,
            caller=caller[1].decode() if caller else "",
            text=text,
        )
        self.last_seq, self._usec, self._caller = record.seq, record.usec, record.caller
        piece = _FRAGMENT.search(more)
        held = self._held
        if held is not None:
            if (piece and int(piece[1]) and held.seq == record.seq) or flag == b"+":
                record = Record(
                    held.seq, held.usec, held.level, held.facility, held.caller, held.text + text
                )
                self._missing -= len(body)
            else:
                yield held
            self._held = None
        elif piece and not int(piece[1]):
            self._missing = int(piece[2]) - len(body)
        if (piece and self._missing > 0) or flag == b"c":
            self._held = record
        else:
            yield record

    def _plain(self, text: str, number: int) -> Iterator[Record]:
        level, facility, usec, caller, text = self._prefix(text)
        pieces: list[tuple[int | None, str, str]] = [(usec, caller, text)]
        if "] " in text and (cuts := list(_STAMP.finditer(text))):
            pieces = [(usec, caller, text[: cuts[0].start()])] if cuts[0].start() else []
            ends = [cut.start() for cut in cuts[1:]] + [len(text)]
            for cut, end in zip(cuts, ends, strict=True):
                at = int(cut[1]) * 1_000_000 + int(cut[2])
                pieces.append((at, cut[3] or "", text[cut.end() : end]))
                facility = 0
        for when, called, piece in pieces:
            if when is not None:
                self._usec, self._caller = when, called
            yield Record(number, self._usec, level, facility, self._caller, piece)

    def _prefix(self, text: str) -> tuple[int, int, int | None, str, str]:
        """Level, facility, time, caller and the rest of a line."""
        level, facility = 4, 0
        usec: int | None = None
        caller = ""
        first = text[:1]
        if first.isalnum() and not _ISO.match(text) and (sys := _SYSLOG.match(text)):
            usec = _wall(sys["iso"], sys["day"], sys["clock"])
            tag = sys["tag"].split("[")[0].rsplit(" ", 1)[-1]
            facility = 0 if tag == "kernel" else 3
            text = text[sys.end() :]
        elif first.isalpha() and (named := _NAMED.match(text)):
            level, facility = _LEVELS[named[2]], 0 if named[1] == "kern" else 1
            text = text[named.end() :]
        if text[:1] == "<" and (raw := _LEVEL.match(text)):
            level, facility = int(raw[1]) & 7, int(raw[1]) >> 3
            text = text[raw.end() :]
        if (text[:1] == "[" or text[:1].isdigit()) and (time := _TIME.match(text)):
            usec = self._clock(time)
            text = text[time.end() :]
            if text[:1] == "[" and (called := _CALLED.match(text)):
                caller = called[1]
                text = text[called.end() :]
            if host := _HOST.match(text):  # journalctl -o short-monotonic
                text = text[host.end() :]
        return level, facility, usec, caller, text

    def _clock(self, time: re.Match[str]) -> int:
        if time["sec"] is not None:
            return int(time["sec"]) * 1_000_000 + int(time["frac"].ljust(6, "0")[:6])
        step = time["step"] or time["delta"]
        if step is not None:
            return min(self._usec + int(float(step) * 1_000_000), 10**18)
        return _wall(time["iso"], time["day"], time["clock"])


def _wall(iso: str | None, day: str | None, clock: str | None) -> int:
    """Microseconds of a wall clock, since some first of a month: good for differences."""
    if iso is not None:
        day, clock = iso[8:10], iso[11:19]
    hours, minutes, *seconds = (int(part) for part in (clock or "0:0").split(":"))
    return ((int(day or 0) * 24 + hours) * 60 + minutes) * 60_000_000 + sum(seconds) * 1_000_000


def looks_like_log(block: bytes) -> bool:
    """Whether any line of `block` has before its text what a kernel's log has."""
    return _SOME.search(block) is not None


def refuse_packed(start: bytes) -> None:
    """Raises UsageError if what begins so is compressed."""
    for magic, (name, tool) in _PACKED.items():
        if start.startswith(magic):
            raise UsageError(
                f"this log is compressed with {name}", cure=f"{tool} LOG | lab dmesg -"
            )


def read(lines: bytes | Iterable[bytes]) -> Iterator[Record]:
    """All records in a log of any form, given whole or line by line.  `seq` is the kernel's where
    the log has it, else the line's number, from 1."""
    reader = Reader()
    for number, line in enumerate(lines.split(b"\n") if isinstance(lines, bytes) else lines, 1):
        yield from reader.feed(line, number)
    yield from reader.flush()
