"""Files of pstore and kdump: whose last words they are.

Of ramoops, efi and erst alike: dumps of the log ("Panic#1 Part1" on their first line, as
fs/pstore/platform.c writes it) and the console of the boot before; of kdump, the whole log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from harness.kernel.merge import segments
from harness.kernel.parts import ordered
from harness.kernel.records import Record, parse_console

__all__ = ["groups", "is_dump", "joined", "owner", "owners", "read"]

_HEAD = re.compile(rb"(\w+)#(\d+) Part(\d+)\r?\n?")
# One record of EFI variables, a KiB of a dump: its number is ((time * 100) + part) * 1000 + count
# (drivers/firmware/efi/efi-pstore.c, efi_generic_id).
_EFI = re.compile(r"dmesg-efi(?:_pstore)?-(?P<time>\d+)\d\d(?P<count>\d{3})(?:\D.*)?")


def read(raw: bytes) -> list[Record]:
    """The records of one file, in order of time; of several boots, those of the last."""
    parts = list(segments(parse_console(raw)))
    return parts[-1] if parts else []


def is_dump(raw: bytes) -> bool:
    """Whether it is of a death, not merely the console of a boot that ended."""
    return _HEAD.match(raw) is not None


def groups(names: Iterable[str]) -> list[list[str]]:
    """The files of one dump together, by their names."""
    dumps: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        part = _EFI.fullmatch(name)
        key = (part["time"], part["count"]) if part else (name,)
        dumps.setdefault(key, []).append(name)
    return list(dumps.values())


def joined(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The dumps that `files`, by name, are parts of, each under the name of its first file."""
    return {
        names[0]: files[names[0]]
        if len(names) == 1
        else ordered(b"".join(_line(files[name]) for name in names))
        for names in groups(files)
    }


def owner(raw: bytes, boots: Iterable[tuple[str, Iterable[Record]]]) -> str:
    """Which of `boots`, name and records, it is of: who shares most of its lines; "" for none."""
    return owners([raw], boots)[0]


def owners(raws: Sequence[bytes], boots: Iterable[tuple[str, Iterable[Record]]]) -> list[str]:
    """The same of each of several, in one look at the boots."""
    wanted: dict[tuple[int, str], set[int]] = {}
    for number, raw in enumerate(raws):
        for record in read(raw):
            wanted.setdefault((record.usec, record.text.rstrip()), set()).add(number)
    best, most = [""] * len(raws), [0] * len(raws)
    for name, records in boots:
        shared = [0] * len(raws)
        for record in records if wanted else ():
            for line in record.lines():
                for number in wanted.get((record.usec, line.rstrip()), ()):
                    shared[number] += 1
        for number, count in enumerate(shared):
            if count > most[number]:
                best[number], most[number] = name, count
    return best


def _line(piece: bytes) -> bytes:
    """`piece` with an end to its last line."""
    return piece if piece.endswith(b"\n") or not piece else piece + b"\n"
