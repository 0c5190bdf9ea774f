"""The chip's 512 KiB of MMIO registers (BAR0).

What a table declares behaves by its kind; every other dword is plain
storage, which is all that timings, PLLs and watermarks need.  Parts hang
functions on single registers, and look at the stored dwords without them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["SIZE", "Kind", "Register", "Registers"]

# BAR0 of gen3: GEN2..5 "MMIO" of uncore_mmio_setup() in i915's intel_uncore.c.
SIZE = 512 * 1024
ALL = 0xFFFF_FFFF


class Kind(Enum):
    """How a register answers a write."""

    PLAIN = auto()
    """Keeps the writable bits of what is written."""
    MASKED = auto()
    """Bits 31:16 say which of bits 15:0 are written (_MASKED_FIELD in i915's i915_reg_defs.h)."""
    W1C = auto()
    """A written 1 clears the bit."""
    COMPUTED = auto()
    """Reads come from a function; what is written is kept for the parts to see."""
    READ_ONLY = auto()
    """Writes are dropped."""


@dataclass(frozen=True)
class Register:
    """One dword: its byte offset in BAR0 and its name in the driver's headers."""

    offset: int
    name: str
    reset: int = 0
    kind: Kind = Kind.PLAIN
    writable: int = ALL


Read = Callable[[], int]
Write = Callable[[int, int], None]


class Registers:
    """The register file; every bus access of the driver to BAR0 passes here."""

    def __init__(self) -> None:
        self._words = array("I", bytes(SIZE))
        self._declared: dict[int, Register] = {}
        # Only what is not plain, fully writable storage; looked up once per write.
        self._special: dict[int, Register] = {}
        self._readers: dict[int, Read] = {}
        self._writers: dict[int, Write] = {}

    def declare(self, table: Iterable[Register]) -> None:
        """Add `table`, at its reset values; ValueError for a register declared twice."""
        for register in table:
            offset = register.offset
            if offset & 3 or not 0 <= offset < SIZE:
                raise ValueError(f"{register.name}: {offset:#x} is no dword of BAR0")
            if offset in self._declared:
                other = self._declared[offset].name
                raise ValueError(f"{register.name}: {offset:#x} is declared already, as {other}")
            self._declared[offset] = register
            if register.kind is not Kind.PLAIN or register.writable != ALL:
                self._special[offset] = register
            self._words[offset >> 2] = register.reset

    def on_read(self, offset: int, fn: Read) -> None:
        """The driver's reads of `offset` return what `fn` returns."""
        self._readers[offset] = fn

    def on_write(self, offset: int, fn: Write) -> None:
        """`fn(old, new)` follows each write, with the stored dword before and after it.

        Called even when nothing changed: some registers act on being written.
        """
        first = self._writers.get(offset)
        if first is None:
            self._writers[offset] = fn
            return
        before = first

        def both(old: int, new: int) -> None:
            before(old, new)
            fn(old, new)

        self._writers[offset] = both

    def read(self, offset: int, size: int) -> int:
        """What the bus reads: `size` bytes (1, 2, 4 or 8) at `offset`."""
        if size == 4 and not offset & 3:
            reader = self._readers.get(offset)
            return self._words[offset >> 2] if reader is None else reader()
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        word = self.read(offset & ~3, 4)
        return word >> (offset & 3) * 8 & (1 << size * 8) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """What the bus writes: `size` bytes (1, 2, 4 or 8) at `offset`."""
        if size == 4 and not offset & 3:
            index = offset >> 2
            words = self._words
            old = words[index]
            special = self._special.get(offset)
            new = value if special is None else _merged(special, old, value, ALL)
            words[index] = new
            writer = self._writers.get(offset)
            if writer is not None:
                writer(old, new)
        elif size == 8:
            self.write(offset, 4, value & ALL)
            self.write(offset + 4, 4, value >> 32)
        else:
            self._write_lanes(offset, size, value)

    def _write_lanes(self, offset: int, size: int, value: int) -> None:
        """A byte or a word: only its lanes of the dword are written."""
        shift = (offset & 3) * 8
        lanes = ((1 << size * 8) - 1) << shift
        word = offset & ~3
        old = self._words[word >> 2]
        special = self._special.get(word)
        if special is None:
            new = old & ~lanes | value << shift & lanes
        else:
            new = _merged(special, old, value << shift & lanes, lanes)
        self._words[word >> 2] = new
        writer = self._writers.get(word)
        if writer is not None:
            writer(old, new)

    def __getitem__(self, offset: int) -> int:
        """The stored dword, without side effects."""
        return self._words[offset >> 2]

    def __setitem__(self, offset: int, value: int) -> None:
        """Store a dword without side effects, whatever its kind."""
        self._words[offset >> 2] = value & ALL

    def restore(self, first: int, last: int) -> None:
        """Put the dwords from `first` to `last` (offsets, both included) to their reset values."""
        start, stop = first >> 2, (last >> 2) + 1
        self._words[start:stop] = array("I", bytes(4 * (stop - start)))
        for offset, register in self._declared.items():
            if first <= offset <= last:
                self._words[offset >> 2] = register.reset


def _merged(register: Register, old: int, value: int, lanes: int) -> int:
    """What `register` holds after `value` is written in the byte lanes `lanes`."""
    kind = register.kind
    if kind is Kind.MASKED:
        mask = value >> 16 & register.writable
        return old & ~mask | value & mask
    if kind is Kind.W1C:
        return old & ~(value & register.writable)
    if kind is Kind.READ_ONLY:
        return old
    writable = register.writable & lanes
    return old & ~writable | value & writable
