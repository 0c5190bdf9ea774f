"""What the command streamer fetches: dwords and packets at GTT addresses.

Looks a page up once for as long as a run stays on it.  A page that is not
there is reported as the chip does it, in its error registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.gen3.errors import Errors
from tools.gen3.faults import Faults
from tools.gen3.gtt import PAGE, Ggtt
from tools.gen3.memory import Memory, NoMemory

__all__ = ["Fetch"]


class Fetch:
    """The streamer's window on the GTT: one page at a time."""

    def __init__(self, gtt: Ggtt, memory: Memory, errors: Errors, faults: Faults) -> None:
        self._gtt = gtt
        self._memory = memory
        self._errors = errors
        self._faults = faults
        self.address = 0
        """Of the last dword that was asked for."""
        self._page = -1
        self._window: memoryview | None = None

    def forget(self) -> None:
        """Look pages up anew: between two runs the driver may map others."""
        self._page = -1
        self._window = None

    def page_at(self, physical: int | None) -> memoryview | None:
        """The page as dwords; None where there is no RAM."""
        if physical is None:
            return None
        try:
            return self._memory.view(physical, PAGE).cast("I")
        except NoMemory:
            return None

    def dword(self, address: int) -> int | None:
        """The dword at a GTT address; None, and reported, where it cannot be fetched."""
        self.address = address
        page = address >> 12
        if page != self._page:
            physical = self._gtt.translate(page)
            if self._faults.page_table_error != "ok" and self._faults.take("page_table_error"):
                physical = None
            self._window = self.page_at(physical)
            self._page = page
        window = self._window
        if window is None:
            self._page = -1
            self._errors.page_table()
            return None
        return window[address >> 2 & 0x3FF]

    def noops(self, address: int) -> int:
        """How many zeros there are from `address`, just fetched, to the end of its page at most."""
        assert self._window is not None
        first = address >> 2 & 0x3FF
        page = self._window[first:].tobytes()
        return (len(page) - len(page.lstrip(b"\0"))) // 4

    def packet(
        self, address: int, length: int, ring: tuple[int, int] | None
    ) -> Sequence[int] | None:
        """All dwords of the packet whose first was just fetched; None as in `dword`.

        One in the ring, which lies between these two addresses, goes on at its start.
        """
        first = address >> 2 & 0x3FF
        if first + length <= 0x400 and self._window is not None:
            return self._window[first : first + length]
        words = []
        for _ in range(length):
            word = self.dword(address)
            if word is None:
                return None
            words.append(word)
            address += 4
            if ring is not None and address >= ring[1]:
                address = ring[0]
        return words
