"""The command interpreter: what each packet of the ring or of a batch does.

MI commands are executed, 2D ones by the blitter; 3D ones are taken by their
length and draw nothing.  What is none of these stops the streamer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Protocol

from tools.gen3.blitter import Blitter
from tools.gen3.interrupts import ISR, USER, Interrupts, flip_pending
from tools.gen3.registers import Registers

__all__ = ["Commands", "Next", "Streamer"]

# Clients, bits 31:29: INSTR_*_CLIENT of gt/intel_gpu_commands.h.
BLITTER, RENDER = 2, 3
# Opcodes of MI, bits 28:23: MI_INSTR() there.
NOOP, USER_INTERRUPT, WAIT_FOR_EVENT, FLUSH, REPORT_HEAD = 0x00, 0x02, 0x03, 0x04, 0x07
ARB_CHECK, ARB_ON_OFF, BATCH_BUFFER_END = 0x05, 0x08, 0x0A
OVERLAY_FLIP, LOAD_SCAN_LINES_INCL, LOAD_SCAN_LINES_EXCL, DISPLAY_FLIP = 0x11, 0x12, 0x13, 0x14
SET_CONTEXT, STORE_DATA_IMM, STORE_DATA_INDEX = 0x18, 0x20, 0x21
LOAD_REGISTER_IMM, STORE_REGISTER_MEM, BATCH_BUFFER, BATCH_BUFFER_START = 0x22, 0x24, 0x30, 0x31

IDENTIFY = 1 << 22
MEM_VIRTUAL = 1 << 22
NOPID, CCID = 0x2094, 0x2180
# In the status page, the dword that MI_REPORT_HEAD writes (gt/intel_engine_types.h lists
# 0x10 as the ring's head for gen2 and gen3).
STATUS_HEAD = 0x10
# MI_WAIT_FOR_*: bits of pipe A; those of pipe B are four higher.
SCANLINES, FLIP, VBLANK = 1 << 1, 1 << 2, 1 << 3
PIPE_B_SHIFT = 4
# DSPACNTR, DSPASTRIDE, DSPAADDR of i915_reg.h; plane B is 0x1000 further.
PLANE_CONTROL, PLANE_ADDRESS, PLANE_STRIDE = 0x70180, 0x70184, 0x70188
PLANE_STEP = 0x1000


class Next(Enum):
    """Where the streamer goes on after a packet."""

    PACKET = auto()
    """With the one behind it."""
    JUMP = auto()
    """Where `jump` or `leave` put it."""
    WAIT = auto()
    """Behind it, but not before an event."""


class Streamer(Protocol):
    """What a command may want of the streamer that fetched it."""

    @property
    def secure(self) -> bool:
        """Whether privileged commands are obeyed: in the ring, and in secure batches."""

    def jump(self, address: int, last: int | None) -> None:
        """Go on in the batch at `address`, to the dword at `last` if it has a fixed end."""

    def leave(self) -> None:
        """Back to the ring."""

    def head(self) -> int:
        """RING_HEAD behind this packet."""

    def wait(self, events: int) -> None:
        """Stand still until one of `events`, bits of MI_WAIT_FOR_EVENT."""

    def work(self, costs: Iterator[int]) -> None:
        """Do all of `costs` before the next packet, each being some work and what it cost."""

    def store(self, address: int, virtual: bool, words: Sequence[int]) -> None:
        """Write dwords at a GTT address, or else a physical one."""

    def store_status(self, offset: int, words: Sequence[int]) -> None:
        """Write dwords at `offset` of the hardware status page."""


Handler = Callable[[Streamer, Sequence[int]], Next]


class Commands:
    """All commands, by client and opcode."""

    def __init__(self, registers: Registers, interrupts: Interrupts, blitter: Blitter) -> None:
        self._registers = registers
        self._interrupts = interrupts
        self._blitter = blitter
        self.undrawn = 0
        """3D commands and 2D ones beyond the blitter's, taken by their length alone."""
        # By header >> 23: what executes it, and the bits of the header that are its length
        # less two; 0 for one dword.
        self._mi: dict[int, tuple[Handler, int]] = {
            NOOP: (self._noop, 0),
            USER_INTERRUPT: (self._user_interrupt, 0),
            WAIT_FOR_EVENT: (self._wait_for_event, 0),
            FLUSH: (_nothing, 0),
            ARB_CHECK: (_nothing, 0),
            REPORT_HEAD: (_report_head, 0),
            ARB_ON_OFF: (_nothing, 0),
            BATCH_BUFFER_END: (_batch_buffer_end, 0),
            OVERLAY_FLIP: (_nothing, 0x3F),
            LOAD_SCAN_LINES_INCL: (_nothing, 0x3F),
            LOAD_SCAN_LINES_EXCL: (_nothing, 0x3F),
            DISPLAY_FLIP: (self._display_flip, 0x3F),
            SET_CONTEXT: (self._set_context, 0x3F),
            STORE_DATA_IMM: (_store_data, 0x3F),
            STORE_DATA_INDEX: (_store_data_index, 0x3F),
            LOAD_REGISTER_IMM: (self._load_register, 0xFF),
            STORE_REGISTER_MEM: (self._store_register, 0x3F),
            BATCH_BUFFER: (_batch_buffer, 0x3F),
            BATCH_BUFFER_START: (_batch_buffer_start, 0x3F),
        }

    def decode(self, header: int) -> tuple[Handler, int] | None:
        """What executes the packet that begins with `header`, and its dwords; None for invalid."""
        found = self._mi.get(header >> 23)
        if found is not None:
            handler, mask = found
            return handler, (header & mask) + 2 if mask else 1
        client = header >> 29
        if client == BLITTER:
            return self._blit, (header & 0xFF) + 2
        if client == RENDER:
            return self._render, _render_length(header)
        return None

    def vblank(self, pipe: int) -> int:
        """What a vblank of `pipe` ends: the events, and the flips it completes."""
        registers = self._registers
        for plane in (0, 1):
            bit = flip_pending(plane)
            if registers[ISR] & bit and _pipe_of(registers, plane) == pipe:
                self._interrupts.level(bit, False)
        return (SCANLINES | FLIP | VBLANK) << PIPE_B_SHIFT * pipe

    def _blit(self, streamer: Streamer, words: Sequence[int]) -> Next:
        if self._blitter.lengths.get(words[0] >> 22 & 0x7F) == len(words):
            streamer.work(self._blitter.execute(words))
        else:
            self.undrawn += 1
        return Next.PACKET

    def _render(self, streamer: Streamer, words: Sequence[int]) -> Next:
        self.undrawn += 1
        return Next.PACKET

    def _noop(self, streamer: Streamer, words: Sequence[int]) -> Next:
        if words[0] & IDENTIFY:
            self._registers[NOPID] = words[0] & IDENTIFY - 1
        return Next.PACKET

    def _user_interrupt(self, streamer: Streamer, words: Sequence[int]) -> Next:
        self._interrupts.pulse(USER)
        return Next.PACKET

    def _wait_for_event(self, streamer: Streamer, words: Sequence[int]) -> Next:
        events = words[0] & (SCANLINES | FLIP | VBLANK) * (1 | 1 << PIPE_B_SHIFT)
        for plane in (0, 1):
            flip = FLIP << PIPE_B_SHIFT * plane
            if events & flip and not self._registers[ISR] & flip_pending(plane):
                # None under way: nothing to wait for.
                events &= ~flip
                if not events:
                    return Next.PACKET
        if not events:
            return Next.PACKET
        streamer.wait(events)
        return Next.WAIT

    def _display_flip(self, streamer: Streamer, words: Sequence[int]) -> Next:
        """MI_DISPLAY_FLIP_I915: plane, pitch, address; done at the next vblank."""
        plane = words[0] >> 20 & 3
        if streamer.secure and plane < 2 and len(words) >= 3:
            self._interrupts.level(flip_pending(plane), True)
            self._registers.write(PLANE_STRIDE + plane * PLANE_STEP, 4, words[1])
            self._registers.write(PLANE_ADDRESS + plane * PLANE_STEP, 4, words[2])
        return Next.PACKET

    def _set_context(self, streamer: Streamer, words: Sequence[int]) -> Next:
        self._registers[CCID] = words[1]
        return Next.PACKET

    def _load_register(self, streamer: Streamer, words: Sequence[int]) -> Next:
        if streamer.secure:
            for at in range(1, len(words) - 1, 2):
                self._registers.write(words[at] & 0x7_FFFC, 4, words[at + 1])
        return Next.PACKET

    def _store_register(self, streamer: Streamer, words: Sequence[int]) -> Next:
        if streamer.secure and len(words) >= 3:
            value = self._registers.read(words[1] & 0x7_FFFC, 4)
            streamer.store(words[2], bool(words[0] & MEM_VIRTUAL), (value,))
        return Next.PACKET


def _nothing(streamer: Streamer, words: Sequence[int]) -> Next:
    """Caches, arbitration, the overlay: nothing that could be seen here."""
    return Next.PACKET


def _report_head(streamer: Streamer, words: Sequence[int]) -> Next:
    streamer.store_status(STATUS_HEAD, (streamer.head(),))
    return Next.PACKET


def _store_data(streamer: Streamer, words: Sequence[int]) -> Next:
    """Address, value; gen4 has a reserved dword before the address, gen3 has not."""
    streamer.store(words[1] & ~3, bool(words[0] & MEM_VIRTUAL), words[2:])
    return Next.PACKET


def _store_data_index(streamer: Streamer, words: Sequence[int]) -> Next:
    streamer.store_status(words[1] & 0xFFC, words[2:])
    return Next.PACKET


def _batch_buffer(streamer: Streamer, words: Sequence[int]) -> Next:
    # Without its last word it is one that does not end by itself.
    streamer.jump(words[1], words[2] & ~3 if len(words) > 2 else None)
    return Next.JUMP


def _batch_buffer_start(streamer: Streamer, words: Sequence[int]) -> Next:
    streamer.jump(words[1], None)
    return Next.JUMP


def _batch_buffer_end(streamer: Streamer, words: Sequence[int]) -> Next:
    streamer.leave()
    return Next.JUMP


def _render_length(header: int) -> int:
    """Dwords of a 3D command, by bits 28:24 as the i915 3D pipeline of Mesa and IGT emits them."""
    opcode = header >> 24 & 0x1F
    if opcode <= 0x1C:
        return 1
    if opcode == 0x1F:
        if not header & 1 << 23:
            # Vertices inline.
            return (header & 0x1_FFFF) + 2
        if header & 1 << 17:
            # Indirect, sequential: count in the header, the first index behind it.
            return 2
        indices = header & 0xFFFF
        return (indices + 1) // 2 + 1
    return (header & 0xFF) + 2


def _pipe_of(registers: Registers, plane: int) -> int:
    """The pipe that plane `plane` feeds: DISP_PIPE_SEL, bits 25:24 of its control."""
    return registers[PLANE_CONTROL + plane * PLANE_STEP] >> 24 & 3
