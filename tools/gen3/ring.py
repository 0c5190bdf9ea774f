"""The render ring: its registers, and the command streamer that follows them.

The streamer runs in small budgets, because the guest's processor waits while
it does; a large blit goes on from a tick.  A batch that loops is left inside
and run again from a tick, so that a CPU's write of MI_BATCH_BUFFER_END ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.gen3.commands import Commands, Next
from tools.gen3.errors import Errors
from tools.gen3.faults import Faults
from tools.gen3.fetch import Fetch
from tools.gen3.gtt import PAGE, Ggtt
from tools.gen3.memory import Memory
from tools.gen3.part import Clock
from tools.gen3.registers import Kind, Register, Registers
from tools.gen3.variants import Variant

__all__ = ["Ring"]

# gt/intel_engine_regs.h, of RENDER_RING_BASE.
TAIL, HEAD, START, CTL = 0x2030, 0x2034, 0x2038, 0x203C
HWS_PGA, IPEIR, IPEHR, INSTDONE, MI_MODE = 0x2080, 0x2088, 0x208C, 0x2090, 0x209C
ACTHD, DMA_FADD = 0x20C8, 0x20D0
TAIL_ADDR, HEAD_ADDR, HEAD_WRAP_ONE = 0x001F_FFF8, 0x001F_FFFC, 0x0020_0000
NR_PAGES, VALID, WAITING = 0x001F_F000, 1 << 0, 1 << 11
MODE_IDLE, STOP_RING = 1 << 9, 1 << 8
NON_SECURE = 1 << 0
# All units done, ring 0 enabled; bit 26 is the instruction parser's.  Names from the public
# 3D documentation as intel_gpu_top had them; i915 records the register and asks no bit.
ALL_DONE, PARSER_DONE = 0x7FFF_FFC1, 1 << 26
GARBAGE = 0xFFFF_FFFF

TABLE = (
    Register(TAIL, "RING_TAIL", writable=TAIL_ADDR),
    Register(HEAD, "RING_HEAD", kind=Kind.COMPUTED),
    Register(START, "RING_START", writable=0xFFFF_F000),
    Register(CTL, "RING_CTL", kind=Kind.COMPUTED),
    Register(HWS_PGA, "HWS_PGA"),
    Register(IPEIR, "IPEIR"),
    Register(IPEHR, "IPEHR", kind=Kind.COMPUTED),
    Register(INSTDONE, "GEN2_INSTDONE", kind=Kind.COMPUTED),
    Register(MI_MODE, "RING_MI_MODE", kind=Kind.MASKED),
    Register(0x20C0, "INSTPM", kind=Kind.MASKED),
    Register(ACTHD, "ACTHD", kind=Kind.COMPUTED),
    Register(0x20CC, "MEM_MODE", kind=Kind.MASKED),
    Register(DMA_FADD, "DMA_FADD_I8XX", kind=Kind.COMPUTED),
    Register(0x20E4, "MI_ARB_STATE", kind=Kind.MASKED),
    Register(0x2120, "CACHE_MODE_0", kind=Kind.MASKED),
    Register(0x21D0, "ECOSKPD", kind=Kind.MASKED),
)

# Packets of one run, about 5 ms; the vCPU that rang waits for them.  Rows of blits are charged
# as that many packets as take as long.
BUDGET = 2000
# How long the guest then has the model to itself: reading an error state takes tens of thousands of
# accesses, none of which waits for the streamer on hardware.
REST_NS = 5_000_000
# How often a batch that jumps to where it was before is looked at again.
LOOP_NS = 5_000_000


class Ring:
    """Ring 0 and its streamer: idle, running, waiting for an event, or stuck until reset."""

    def __init__(
        self,
        registers: Registers,
        gtt: Ggtt,
        memory: Memory,
        commands: Commands,
        errors: Errors,
        faults: Faults,
        clock: Clock,
        variant: Variant,
    ) -> None:
        self._registers = registers
        self._gtt = gtt
        self._memory = memory
        self._commands = commands
        self._errors = errors
        self._faults = faults
        self._clock = clock
        self._physical_status_page = variant.physical_status_page
        registers.declare(TABLE)
        registers.on_read(HEAD, self.head)
        registers.on_read(CTL, lambda: registers[CTL] | (WAITING if self._events else 0))
        registers.on_read(ACTHD, lambda: self._at())
        registers.on_read(IPEHR, lambda: self._header)
        registers.on_read(DMA_FADD, lambda: self._fetch.address)
        registers.on_read(INSTDONE, lambda: ALL_DONE & (-1 if self._idle() else ~PARSER_DONE))
        registers.on_read(MI_MODE, self._mode)
        registers.on_write(TAIL, self._write_tail)
        registers.on_write(HEAD, self._write_head)
        registers.on_write(START, self._write_start)
        registers.on_write(CTL, self._write_control)
        registers.on_write(MI_MODE, self._write_mode)
        faults.watch(self._watch_faults)
        self.packets = 0
        """Packets executed since power-on."""
        self._faulty = False
        self._fetch = Fetch(gtt, memory, errors, faults)
        self._status: memoryview | None = None
        self._start_over()

    def _start_over(self) -> None:
        """Idle, as at power-on."""
        # The registers as the streamer wants them, kept by their writes.
        self._head = self._tail = self._start = 0
        self._size = PAGE
        self._ready = False
        self._batch: int | None = None
        self._last: int | None = None
        self._secure = True
        self._header = 0
        self._fetch.address = 0
        self._events = 0
        # The rows that are left of a blit.
        self._work: Iterator[int] | None = None
        self.stuck = ""
        """Why the streamer stands still until reset; empty while it does not."""
        self._due: int | None = None
        self._running = False
        self._visited: set[int] = set()
        self._forget_pages()

    # What the driver reads

    def head(self) -> int:
        """RING_HEAD: offset of the next packet, and how often it wrapped."""
        return self._head

    def state(self) -> dict[str, object]:
        """For people: where it is and why."""
        return {
            "head": self._head & HEAD_ADDR,
            "tail": self._tail,
            "acthd": self._at(),
            "ipehr": self._header,
            "in_batch": self._batch is not None,
            "waiting": bool(self._events),
            "blitting": self._work is not None,
            "stuck": self.stuck,
            "packets": self.packets,
        }

    def _at(self) -> int:
        """GTT address of the next dword to fetch."""
        if self._batch is not None:
            return self._batch
        return self._start + (self._head & HEAD_ADDR)

    def _idle(self) -> bool:
        if self._batch is not None or self._work is not None or self._events or self.stuck:
            return False
        return not self._ready or self._head & HEAD_ADDR == self._tail

    def _mode(self) -> int:
        """RING_MI_MODE: intel_engine_stop_cs sets STOP_RING and waits for MODE_IDLE."""
        stored = self._registers[MI_MODE] & ~MODE_IDLE
        return stored | MODE_IDLE if self._idle() else stored

    # What the driver writes

    def _write_tail(self, old: int, new: int) -> None:
        self._tail = new
        self._run()

    def _write_start(self, old: int, new: int) -> None:
        self._start = new

    def _write_mode(self, old: int, new: int) -> None:
        self._update()
        self._run()

    def _update(self) -> None:
        """Whether the ring may be followed, and how far."""
        control = self._registers[CTL]
        self._size = (control & NR_PAGES) + PAGE
        self._ready = bool(control & VALID) and not self._registers[MI_MODE] & STOP_RING

    def _watch_faults(self) -> None:
        self._faulty = self._faults.ring_stuck != "ok" or self._faults.ring_corrupt != "ok"

    def _write_head(self, old: int, new: int) -> None:
        self._head = new & ~3

    def _write_control(self, old: int, new: int) -> None:
        """A disabled ring drops its batch and its blit; writing the wait bit ends the wait."""
        self._registers[CTL] = new & ~WAITING
        if not new & VALID:
            self._batch = None
            self._work = None
            self._events = 0
            self._due = None
        elif new & WAITING:
            self._events = 0
        self._update()
        self._run()

    # Part

    def reset(self) -> None:
        """A GPU reset: all registers and whatever was running."""
        for register in TABLE:
            self._registers.restore(register.offset, register.offset)
        self._start_over()

    def due(self) -> int | None:
        return self._due

    def tick(self, now: int) -> None:
        if self._due is not None and now >= self._due:
            self._run()

    def vblank(self, pipe: int) -> None:
        """The display says that `pipe` (0 or 1) entered its vblank."""
        ended = self._commands.vblank(pipe)
        if self._events & ended:
            self._events = 0
            self._run()

    # What commands want (Streamer)

    @property
    def secure(self) -> bool:
        return self._batch is None or self._secure

    def jump(self, address: int, last: int | None) -> None:
        # A batch started by one that is not secure is not secure either.
        self._secure = self.secure and not address & NON_SECURE
        self._batch = address & ~3
        self._last = last

    def leave(self) -> None:
        self._batch = None
        self._last = None

    def wait(self, events: int) -> None:
        self._events = events

    def work(self, costs: Iterator[int]) -> None:
        self._work = costs

    def store(self, address: int, virtual: bool, words: Sequence[int]) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in words)
        if virtual:
            self._gtt.write(address, data)
        else:
            self._memory.write(address, data)

    def store_status(self, offset: int, words: Sequence[int]) -> None:
        page = self._status
        if page is None:
            address = self._registers[HWS_PGA] & ~(PAGE - 1)
            page = self._status = self._fetch.page_at(
                address if self._physical_status_page else self._gtt.translate(address >> 12)
            )
        if page is not None:
            for word in words:
                page[offset >> 2 & 0x3FF] = word
                offset += 4

    # The streamer

    def _run(self) -> None:
        """Execute until idle, waiting, stuck, looping, or out of budget."""
        if self._running or self.stuck or self._events:
            return
        self._running = True
        self._due = None
        self._visited.clear()
        self._forget_pages()
        left = BUDGET
        while left > 0:
            if self._work is not None:
                left -= self._row()
            elif self._step():
                left -= 1
                self.packets += 1
            else:
                break
        if left <= 0:
            # More to do, after the messages that wait and some of those that follow.
            self._due = self._clock() + REST_NS
        self._running = False

    def _row(self) -> int:
        """One row of the blit; returns what it cost."""
        assert self._work is not None
        cost = next(self._work, None)
        if cost is None:
            self._work = None
        return cost or 0

    def _step(self) -> bool:
        """One packet; False when there is nothing more to do now."""
        batch = self._batch
        if batch is not None:
            address = batch
        elif self._ready and self._head & HEAD_ADDR != self._tail:
            address = self._start + (self._head & HEAD_ADDR)
        else:
            return False
        header = self._fetch.dword(address)
        if header is None:
            return self._no_page()
        if self._faulty and batch is None and self._faults.take("ring_corrupt"):
            header = GARBAGE
        self._header = header
        found = self._commands.decode(header)
        if found is None:
            self._errors.instruction()
            self.stuck = f"invalid command {header:#010x} at {address:#x}"
            return False
        handler, length = found
        if not header and batch is not None:
            # Long runs of MI_NOOP, as a batch without an end makes them, at one stroke.
            self._go_on(batch + 4 * self._fetch.noops(batch))
            return True
        if length == 1:
            words: Sequence[int] = (header,)
        else:
            if self._faulty and batch is None and self._faults.take("ring_stuck"):
                self._advance(1)
                self.stuck = f"fault ring_stuck, inside the packet at {address:#x}"
                return False
            ring = None if batch is not None else (self._start, self._start + self._size)
            packet = self._fetch.packet(address, length, ring)
            if packet is None:
                return self._no_page()
            words = packet
        if batch is None:
            # A batch is entered from behind the command that starts it.
            self._advance(length)
            then = handler(self, words)
        else:
            then = handler(self, words)
            if then is not Next.JUMP and self._batch is not None:
                self._go_on(batch + 4 * length)
        if then is Next.PACKET:
            return True
        return then is Next.JUMP and not self._looped()

    def _no_page(self) -> bool:
        self.stuck = f"no page at {self._fetch.address:#x}"
        return False

    def _forget_pages(self) -> None:
        self._fetch.forget()
        self._status = None

    def _go_on(self, address: int) -> None:
        """On to `address` of the batch, unless that is behind its last dword."""
        self._batch = address
        if self._last is not None and address > self._last:
            self.leave()

    def _looped(self) -> bool:
        """Whether a jump came to where this run was before: enough until the next tick."""
        if self._batch is None:
            return False
        if self._batch in self._visited:
            self._due = self._clock() + LOOP_NS
            return True
        self._visited.add(self._batch)
        return False

    def _advance(self, words: int) -> None:
        """Move HEAD in the ring, counting its wraps."""
        head = self._head
        self._head = head + 4 * words
        if (head & HEAD_ADDR) + 4 * words >= self._size:
            self._head += HEAD_WRAP_ONE - self._size
            self._head &= 0xFFFF_FFFF
