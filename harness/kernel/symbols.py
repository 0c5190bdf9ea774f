"""Where in a kernel image a frame's code lies: ELF symbols and build ids, read without debug info.

Only places are found here; what source line stands there, a tool that reads DWARF says (see
harness/lab/symbolise.py).  ELF: man 5 elf, and the gABI at refspecs.linuxfoundation.org.
"""

from __future__ import annotations

import mmap
import re
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError
from harness.kernel.stack import Frame

__all__ = ["Image", "Place", "kernel_build_id", "module_name"]

_SYMTAB, _NOTE, _RELOCATABLE = 2, 7, 1
_FUNCTION, _NOTYPE = 2, 0
_ALLOCATED, _CODE = 2, 4
_GNU_BUILD_ID = 3
# CONFIG_STACKTRACE_BUILD_ID: dump_stack_print_info() ends its line with the kernel's own.
_OWN_ID = re.compile(r"^(?:Hardware name:|CPU: ).* (?P<id>[0-9a-f]{40})\s*$")


@dataclass(frozen=True, slots=True)
class Place:
    """An address as a DWARF reader wants it: in a module it counts from its section's start."""

    section: str
    address: int


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class _Symbol(NamedTuple):
    address: int
    section: int
    room: int | None
    """Bytes to the next symbol, as kallsyms reckons a size; None of a section's last."""


@dataclass(slots=True)
class Image:
    """A vmlinux or a module: its build id ("" if it has none), whether it has debug info."""

    path: Path
    build_id: str = ""
    debug: bool = False
    relocatable: bool = False
    _sections: list[_Section] = field(default_factory=list)
    _symbols: dict[str, list[_Symbol]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Image:
        """Read the symbols of `path`.  Raises UsageError if it is no ELF image with symbols."""
        try:
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as m:
                return _Reader(m).image(path)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read for symbols: {error}",
                cure="give a vmlinux, or a module (.ko) that is not compressed",
            ) from error
        except (struct.error, IndexError, OverflowError) as error:
            raise UsageError(
                f"{path} is no whole ELF file: {error}",
                cure="give a vmlinux, or a module (.ko) that is not compressed",
            ) from error

    def place(self, frame: Frame, called: bool = True) -> Place | None:
        """Where `frame` is in this image, or None where its symbol and size do not single it out.

        With `called` its offset is a return address: the call is the instruction before.
        """
        if frame.offset is None:
            return None
        named = self._symbols.get(frame.symbol or frame.function, [])
        fitting = [symbol for symbol in named if symbol.room == frame.size]
        if not fitting:  # the last of its section: kallsyms counts to the end of all code
            fitting = [s for s in named if s.room is None and frame.offset <= (frame.size or 0)]
        if len(fitting) != 1:
            return None
        (symbol,) = fitting
        back = 1 if called and frame.offset else 0
        return Place(self._sections[symbol.section].name, symbol.address + frame.offset - back)


class _Reader:
    """ELF of 32 or 64 bits, of either byte order."""

    def __init__(self, data: mmap.mmap) -> None:
        if data[:4] != b"\x7fELF":
            raise ValueError("it does not begin as ELF does")
        self._data = data
        self._wide = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"

    def image(self, path: Path) -> Image:
        self._sections = list(self._read_sections())
        (kind,) = self._unpack("H", 16)
        names = {section.name for section in self._sections}
        image = Image(
            path,
            next(self._build_ids(), ""),
            ".debug_line" in names and ".debug_info" in names,
            kind == _RELOCATABLE,
            self._sections,
        )
        image._symbols = self._symbols()
        if not image._symbols:
            raise ValueError("it has no symbols: it was stripped")
        return image

    def _unpack(self, fields: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + fields, self._data, offset)

    def _read_sections(self) -> Iterator[_Section]:
        if self._wide:
            (start,) = self._unpack("Q", 40)
            size, count, strings = self._unpack("HHH", 58)
        else:
            (start,) = self._unpack("I", 32)
            size, count, strings = self._unpack("HHH", 46)
        heads = [
            self._unpack("IIQQQQI" if self._wide else "IIIIIII", start + n * size)
            for n in range(count)
        ]
        text = heads[strings][4] if heads else 0
        for name, kind, flags, address, offset, length, link in heads:
            yield _Section(self._string(text + name), kind, flags, address, offset, length, link)

    def _string(self, offset: int) -> str:
        end = self._data.find(b"\0", offset)
        return self._data[offset : max(end, offset)].decode("utf-8", "replace")

    def _build_ids(self) -> Iterator[str]:
        for section in self._sections:
            at, end = section.offset, section.offset + section.size
            while section.kind == _NOTE and at + 12 <= end:
                owner, length, kind = self._unpack("III", at)
                body = at + 12 + (owner + 3 & ~3)
                if kind == _GNU_BUILD_ID and self._data[at + 12 : at + 16] == b"GNU\0":
                    yield self._data[body : body + length].hex()
                at = body + (length + 3 & ~3)

    def _symbols(self) -> dict[str, list[_Symbol]]:
        found: list[tuple[int, int, str]] = []
        starts: dict[int, set[int]] = defaultdict(set)
        for table in self._sections:
            if table.kind != _SYMTAB:
                continue
            text = self._sections[table.link].offset
            form = struct.Struct(self._order + ("IBBHQQ" if self._wide else "IIIBBH"))
            raw = self._data[table.offset : table.offset + table.size // form.size * form.size]
            for fields in form.iter_unpack(raw):
                if self._wide:
                    name, info, _, section, address, _ = fields
                else:
                    name, address, _, info, _, section = fields
                # Assembly's have no type; kallsyms counts to the next named one of any sort.
                if info & 15 not in (_FUNCTION, _NOTYPE) or not 0 < section < len(self._sections):
                    continue
                flags = self._sections[section].flags
                if not (name and flags & _ALLOCATED and flags & _CODE):
                    continue
                starts[section].add(address)
                found.append((address, section, self._string(text + name)))
        return _roomed(found, starts)


def _roomed(
    found: Iterable[tuple[int, int, str]], starts: dict[int, set[int]]
) -> dict[str, list[_Symbol]]:
    ordered = {section: sorted(addresses) for section, addresses in starts.items()}
    symbols: dict[str, list[_Symbol]] = defaultdict(list)
    for address, section, name in found:
        others = ordered[section]
        after = bisect_right(others, address)
        room = others[after] - address if after < len(others) else None
        symbols[name].append(_Symbol(address, section, room))
    return dict(symbols)


def kernel_build_id(lines: Iterable[str]) -> str:
    """The build id that a report gives of the kernel that printed it, or ""."""
    return next((match["id"] for line in lines if (match := _OWN_ID.match(line))), "")


def module_name(path: Path) -> str:
    """The module that a .ko holds, as frames name it; "" of a vmlinux."""
    name = path.name.removesuffix(".debug")
    return name.removesuffix(".ko").replace("-", "_") if name.endswith(".ko") else ""
