"""A chip with RAM, a clock of the test's own and a ring that i915 might have set up."""

from __future__ import annotations

from collections.abc import Sequence

from tools.gen3.chip import VARIANTS, Chip
from tools.gen3.memory import Memory

__all__ = ["BATCH", "RING", "SURFACE", "Rig"]

RAM = 16 << 20
# GTT addresses; the GTT maps RAM page by page from 1 MiB, so that a physical address and
# a GTT address are never the same.
BASE = 1 << 20
STATUS, RING, BATCH, SCRATCH, SURFACE = 0x1000, 0x10000, 0x20000, 0x30000, 0x400000
RING_BYTES = 0x4000

TAIL, HEAD, START, CTL, HWS_PGA, MI_MODE = 0x2030, 0x2034, 0x2038, 0x203C, 0x2080, 0x209C
IER, IIR, IMR = 0x20A0, 0x20A4, 0x20A8

NOOP, USER_INTERRUPT, BATCH_END = 0, 0x02 << 23, 0x0A << 23
STORE_IMM, STORE_INDEX = 0x20 << 23 | 1, 0x21 << 23 | 1
BATCH_START = 0x31 << 23 | 2 << 6
VIRTUAL = 1 << 22


class Rig:
    """Reads and writes as the driver does: by BAR and offset alone."""

    def __init__(self, variant: str = "g33") -> None:
        self.ram = bytearray(RAM)
        self.now = 0
        self.line: list[bool] = []
        self.chip = Chip(VARIANTS[variant], Memory.of(self.ram), self.line.append, lambda: self.now)
        for page in range((RAM - BASE) >> 12):
            self.chip.write(3, page * 4, 4, BASE + (page << 12) | 1)
        self.start()

    def start(self) -> None:
        """Set the ring up, empty, with its interrupt enabled."""
        status = BASE + STATUS if self.chip.variant.physical_status_page else STATUS
        self[HWS_PGA] = status
        self[CTL] = 0
        self[HEAD] = 0
        self[TAIL] = 0
        self[START] = RING
        self[CTL] = RING_BYTES - 4096 | 1
        self[IER] = 0x8002
        self[IMR] = ~0x8002 & 0xFFFF_FFFF

    def __getitem__(self, register: int) -> int:
        return self.chip.read(0, register, 4)

    def __setitem__(self, register: int, value: int) -> None:
        self.chip.write(0, register, 4, value)

    def poke(self, address: int, words: Sequence[int]) -> None:
        """Dwords into what the GTT maps at `address`, behind the chip's back."""
        data = b"".join(word.to_bytes(4, "little") for word in words)
        self.ram[BASE + address : BASE + address + len(data)] = data

    def peek(self, address: int) -> int:
        """A dword of what the GTT maps at `address`."""
        return int.from_bytes(self.ram[BASE + address : BASE + address + 4], "little")

    def status(self, index: int) -> int:
        """Dword `index` of the hardware status page."""
        return self.peek(STATUS + 4 * index)

    def emit(self, *words: int) -> None:
        """Put a command behind the others in the ring and ring the doorbell."""
        padded = [*words, NOOP] if len(words) % 2 else list(words)
        tail = self[TAIL]
        for at, word in enumerate(padded):
            self.poke(RING + (tail + 4 * at) % RING_BYTES, [word])
        self[TAIL] = (tail + 4 * len(padded)) % RING_BYTES

    def batch(self, *words: int, secure: bool = True) -> None:
        """Run `words` as a batch."""
        self.poke(BATCH, words)
        self.emit(BATCH_START, BATCH | (0 if secure else 1))

    def head(self) -> int:
        """Where in the ring the streamer is."""
        return self[HEAD] & 0x1F_FFFC

    def idle(self) -> bool:
        """Whether the ring is empty and the streamer says so."""
        return self.head() == self[TAIL] and bool(self[MI_MODE] & 1 << 9)

    def wait(self, milliseconds: int) -> None:
        """Let time pass, the chip ticking as it asks for; a tick takes a millisecond."""
        end = self.now + milliseconds * 1_000_000
        while (due := self.chip.due()) is not None and max(due, self.now) <= end:
            self.now = max(self.now, due)
            self.chip.tick(self.now)
            self.now += 1_000_000
        self.now = max(self.now, end)
