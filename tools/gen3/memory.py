"""Guest RAM as the chip's bus masters see it: physical addresses, shared by fd.

What no RAM answers for behaves as on the bus: reads are all ones, writes are lost.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Memory", "NoMemory", "Section"]


# What is mapped: device, inode, offset, size; the same for two fds of one file.
_Identity = tuple[int, int, int, int]


class NoMemory(LookupError):
    """A range of physical addresses that is not RAM, or not all of it."""


class Section(NamedTuple):
    """RAM at `guest` for `size` bytes, which is `offset` into the file `fd`."""

    fd: int
    size: int
    offset: int
    guest: int


class Memory:
    """RAM of the guest, mapped into this process."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._views: list[memoryview] = []
        # By what is mapped: QEMU tells the same RAM anew at every change of its memory map.
        self._mapped: dict[_Identity, memoryview] = {}

    @classmethod
    def of(cls, ram: bytearray, guest: int = 0) -> Memory:
        """RAM that is no file's, for tests: `ram` is at `guest`."""
        memory = cls()
        memory._starts, memory._views = [guest], [memoryview(ram)]
        return memory

    def map(self, fd: int, size: int, offset: int, guest_address: int) -> None:
        """Let `guest_address` be `size` bytes of `fd`, besides what is mapped already.

        The caller may close `fd` then.  Raises OSError or ValueError where it cannot
        be mapped.
        """
        self._add(Section(fd, size, offset, guest_address), self._mapped)

    def replace(self, sections: Iterable[Section]) -> None:
        """Let the RAM be `sections` and nothing else; as `map` for each."""
        known, self._mapped = self._mapped, {}
        self._starts, self._views = [], []
        for section in sections:
            self._add(section, known)

    def read(self, physical: int, n: int) -> bytes:
        """`n` bytes at `physical`; all ones where there is no RAM."""
        try:
            return bytes(self.view(physical, n))
        except NoMemory:
            return b"\xff" * n

    def write(self, physical: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data`; lost where there is no RAM."""
        try:
            self.view(physical, len(data))[:] = data
        except NoMemory:
            return

    def view(self, physical: int, n: int) -> memoryview:
        """The RAM itself, no copy.  Raises NoMemory where it is not all there in one piece.

        Not for keeping: after `replace` the guest may have other RAM there.
        """
        at = bisect_right(self._starts, physical) - 1
        if at >= 0:
            first = physical - self._starts[at]
            view = self._views[at]
            if first + n <= len(view):
                return view[first : first + n]
        raise NoMemory(f"no RAM at {physical:#x} for {n} bytes")

    def _add(self, section: Section, known: Mapping[_Identity, memoryview]) -> None:
        status = os.fstat(section.fd)
        key = (status.st_dev, status.st_ino, section.offset, section.size)
        view = known.get(key)
        if view is None:
            # mmap wants whole pages, and QEMU's sections of RAM are.
            view = memoryview(mmap.mmap(section.fd, section.size, offset=section.offset))
        self._mapped[key] = view
        at = bisect_right(self._starts, section.guest)
        self._starts.insert(at, section.guest)
        self._views.insert(at, view)
