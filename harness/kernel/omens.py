"""Omens: what a console says of a machine's death or new life, found while it is being printed.

Fed with raw bytes in pieces of any size; bounded in memory whatever comes.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["Omen", "Omens"]

# Bytes of a line that are looked at; a longer one is cut.
_WIDEST = 4096

Kind = Literal["panic", "panic-end", "halt", "boot", "restart"]

# With printk's time before them: a program that prints the same words to the terminal is no kernel.
# Or with what extended netconsole has there (Documentation/networking/netconsole.rst).
_TIME = rb"(?:\[\s*\d{1,12}\.\d{6}\](?:\[\s*[TC]\d+\])? |\d+,\d+,\d+,[^;]*;)"
# kernel/panic.c, panic(): the first line, the one before it waits to reboot (panic=), and the last
# one where it does not: from there on the machine stands still;
# init/main.c, start_kernel(): linux_banner is the first line of a boot;
# kernel/reboot.c: what an orderly restart says last.
_OMENS: tuple[tuple[Kind, re.Pattern[bytes]], ...] = (
    ("halt", re.compile(_TIME + rb"---\[ end Kernel panic - not syncing: (.*)")),
    ("panic-end", re.compile(_TIME + rb"(Rebooting in \d+ seconds\.\.)")),
    ("panic", re.compile(_TIME + rb"Kernel panic - not syncing: (.*)")),
    ("boot", re.compile(rb"\[\s*0\.000000\](?:\[\s*[TC]\d+\])? Linux version (\S+)")),
    ("restart", re.compile(_TIME + rb"reboot: (Restarting system.*|Power down.*)")),
)


class Omen(NamedTuple):
    """What was read, and the rest of its line."""

    kind: Kind
    text: str


class Omens:
    """A reader of one console."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> list[Omen]:
        """What the lines that end in `data` foretell."""
        if b"\n" not in data:
            self._line = (self._line + data)[:_WIDEST]
            return []
        *lines, rest = data.split(b"\n")
        lines[0] = self._line + lines[0]
        self._line = rest[:_WIDEST]
        return [omen for line in lines if (omen := _read(line[:_WIDEST])) is not None]


def _read(line: bytes) -> Omen | None:
    # Nearly all lines of a flood end here.
    if not any(word in line for word in (b"Kernel panic", b"Linux version", b"eboot")):
        return None
    for kind, pattern in _OMENS:
        if match := pattern.search(line):
            return Omen(kind, match[1].decode("utf-8", "replace").strip("\r ]-"))
    return None
