"""Runs on the target, unprivileged: nonsense for every ioctl of the GPU, for a bounded time.

    fuzz SEED SECONDS RENDER_NODE PRIMARY_NODE

Each round is a process of its own with a seed of its own: threads share an open node and
its handles, close them under each other's feet, and are killed wherever they are.  It only
tries; whether the kernel bore it is for its log to say.
"""

from __future__ import annotations

import ctypes as c
import errno
import mmap
import os
import random
import signal
import sys
import threading
import time
from typing import Any

from harness.agent.uapi import amdgpu as abi
from harness.agent.uapi import drm
from harness.agent.uapi.ioc import Ioctl
from harness.agent.workload.amdgpu_packets import RECIPES, store

__all__: list[str] = []

ROUND_S = 4.0
# A round that takes longer than this to die is stuck: longer than any reset.
DEATH_S = 90.0
THREADS = 3
PAGE = 4096
HANDLES = 24

libc = c.CDLL(None, use_errno=True)
libc.ioctl.argtypes = [c.c_int, c.c_ulong, c.c_void_p]

EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 0x3F, 0xFF, 0xFFF, 0x1000, 0x1001, 0xFFFF, 1 << 20, 1 << 21),
    *(1 << 28, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 0x0000_8000_0000_0000),
    *(0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
# Of the render ABI by number, with the size of their argument (include/uapi/drm/amdgpu_drm.h),
# where harness.agent.uapi has no type for them.
OTHERS = {0x03: 24, 0x06: 288, 0x07: 16, 0x10: 16, 0x12: 24}
# DRM's own that take a list of syncobjs: in 6.12 a long one makes the page allocator WARN of the
# size (drm_syncobj_array_find in drm_syncobj.c), with any driver; this fuzz found that.
LISTS = frozenset({0xC3, 0xC4, 0xC5, 0xCA, 0xCB, 0xCD})
KNOWN: tuple[Ioctl, ...] = (
    *(abi.GEM_CREATE, abi.GEM_MMAP, abi.CTX, abi.CS, abi.INFO, abi.GEM_VA, abi.WAIT_CS),
    *(abi.FENCE_TO_HANDLE, abi.GEM_USERPTR, drm.DRM_IOCTL_GEM_CLOSE),
    *(drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, drm.DRM_IOCTL_PRIME_FD_TO_HANDLE),
    *(drm.DRM_IOCTL_SYNCOBJ_CREATE, drm.DRM_IOCTL_SYNCOBJ_DESTROY),
    drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD,
)


class Fuzz:
    """One thread's attempts on an open node that it shares."""

    def __init__(self, seed: str, fd: int) -> None:
        self._random = random.Random(seed)
        self._fd = fd
        self._scratch = mmap.mmap(-1, 16 * PAGE)
        self._scratch_at = c.addressof(c.c_char.from_buffer(self._scratch))
        self._own = [mmap.mmap(-1, 4 * PAGE) for _ in range(4)]
        self.tried = 0
        self.taken = 0

    def run(self, end: float) -> None:
        moves = (self._submit, self._buffer, self._known, self._raw, self._userptr, self._close)
        weights = (6, 5, 6, 3, 2, 1)
        while time.monotonic() < end:
            (move,) = self._random.choices(moves, weights)
            move()

    def _number(self) -> int:
        """A handle, an edge, an address that is there, or anything."""
        chance = self._random.random()
        if chance < 0.45:
            return self._random.randrange(HANDLES)
        if chance < 0.75:
            return self._random.choice(EDGES)
        if chance < 0.9:
            return self._scratch_at + self._random.randrange(16 * PAGE)
        return self._random.getrandbits(self._random.choice((8, 16, 32, 64)))

    def _do(self, number: int, argument: Any) -> int:
        self.tried += 1
        result = int(libc.ioctl(self._fd, number, c.addressof(argument)))
        self.taken += result >= 0
        return result

    def _spoil(self, argument: Any, share: float = 0.3) -> None:
        """Put something else into some of its words."""
        size = c.sizeof(argument)
        raw = (c.c_uint32 * (size // 4)).from_buffer(argument)
        for index in range(len(raw)):
            if self._random.random() < share:
                raw[index] = self._number() & 0xFFFFFFFF

    def _known(self) -> None:
        """A known ioctl with nonsense in it."""
        ioctl = self._random.choice(KNOWN)
        assert ioctl.argument is not None
        argument = ioctl.argument()
        self._spoil(argument, 0.6)
        self._do(ioctl.number, argument)

    def _raw(self) -> None:
        """Any number of the driver's or of DRM's, with any size."""
        number = self._random.choice((*OTHERS, *range(0x20)))
        size = OTHERS.get(number, self._random.choice((0, 4, 8, 16, 24, 64, 1024, 16383)))
        if self._random.random() < 0.2:
            size = self._random.randrange(1 << 14)
        base = 0x40 if self._random.random() < 0.8 else self._random.choice((0, 0xA0, 0xB0, 0xC0))
        if base + number in LISTS:
            return
        argument = (c.c_uint64 * (1 << 11))()
        for index in range(min(64, size // 8 + 1)):
            argument[index] = self._number()
        direction = self._random.choice((3, 3, 3, 1, 2, 0))
        self._do(direction << 30 | size << 16 | ord("d") << 8 | (base + number), argument)

    def _buffer(self) -> None:
        """A buffer and a place for it, mostly sane."""
        made = abi.AmdgpuGemCreate()
        into = getattr(made, "in")
        into.bo_size = self._random.choice((PAGE, PAGE, 4 * PAGE, 1 << 20, *EDGES))
        into.alignment = self._random.choice((0, PAGE, 3))
        into.domains = self._random.choice((1, 2, 4, 6, 0, 64))
        into.domain_flags = self._random.choice((0, 0, 1, 2, 1 << 6, 1 << 7, self._number()))
        self._do(abi.GEM_CREATE.number, made)
        place = abi.AmdgpuGemVa(
            handle=self._random.randrange(HANDLES),
            operation=self._random.choice((1, 1, 1, 2, 3, 4, 5)),
            flags=self._random.choice((14, 14, 2, 4, self._number() & 0xFFFFFFFF)),
            va_address=self._va(),
            offset_in_bo=self._random.choice((0, 0, PAGE, self._number())),
            map_size=self._random.choice((PAGE, PAGE, 4 * PAGE, self._number())),
        )
        self._do(abi.GEM_VA.number, place)

    def _va(self) -> int:
        if self._random.random() < 0.1:
            return self._number()
        return (1 << 21) + PAGE * self._random.randrange(64)

    def _userptr(self) -> None:
        """A buffer of this process's memory, which comes and goes."""
        index = self._random.randrange(len(self._own))
        at = c.addressof(c.c_char.from_buffer(self._own[index]))
        asked = abi.AmdgpuGemUserptr(
            addr=self._random.choice((at, at, at, self._scratch_at, self._number())),
            size=self._random.choice((PAGE, 4 * PAGE, self._number())),
            flags=self._random.choice((8, 8, 9, 10, 1, 15, self._number() & 0xFF)),
        )
        self._do(abi.GEM_USERPTR.number, asked)
        if self._random.random() < 0.5:
            self._own[index] = mmap.mmap(-1, 4 * PAGE)  # the old one is unmapped

    def _close(self) -> None:
        handle = self._random.randrange(HANDLES)
        self._do(drm.DRM_IOCTL_GEM_CLOSE.number, drm.DrmGemClose(handle=handle))

    def _commands(self) -> list[int]:
        """Packets: good ones with bad addresses, hangs, noise."""
        recipe = self._random.choice(list(RECIPES.values()))
        engine = self._random.choice(recipe.engines)
        choices = (
            store(engine, self._va(), 1, True),
            recipe.build(engine, self._va(), self._va()),
            [self._random.getrandbits(32) for _ in range(16)],
            [3 << 30 | self._random.randrange(256) << 8 | self._number() << 16 & 0x3FFF0000],
            [self._random.randrange(16), *(self._number() & 0xFFFFFFFF for _ in range(7))],
        )
        (dwords,) = self._random.choices(choices, (6, 1, 1, 1, 1))
        return [dword & 0xFFFFFFFF for dword in dwords]

    def _submit(self) -> None:
        """A submission that is nearly right: its IB is anything, and so is some word of it."""
        if self._random.random() < 0.2:
            alloc = abi.AmdgpuCtx()
            getattr(alloc, "in").op = self._random.choice((1, 1, 1, 2, 3, 4, 9))
            getattr(alloc, "in").ctx_id = self._random.randrange(8)
            self._do(abi.CTX.number, alloc)
        self._fill()
        entries = (abi.AmdgpuBoListEntry * 4)()
        for entry in entries:
            entry.bo_handle = self._random.randrange(HANDLES)
        listed = abi.AmdgpuBoListIn(
            bo_number=self._random.choice((0, 1, 2, 4, 4, self._number() & 0xFFFFFFFF)),
            bo_info_size=self._random.choice((8, 8, 8, 4, 0, self._number() & 0xFFFFFFFF)),
            bo_info_ptr=c.addressof(entries),
        )
        parts: list[tuple[int, Any]] = [(abi.CHUNK_ID_BO_HANDLES, listed)]
        for _ in range(self._random.choice((1, 1, 1, 2, 17))):
            commands = abi.AmdgpuCsChunkIb(
                va_start=self._va(),
                ib_bytes=self._random.choice((64, 64, 32, 4096, self._number() & 0xFFFFFFFF)),
                ip_type=self._random.choice((0, 0, 1, 2, 3)),
                ring=self._random.choice((0, 0, 1, 5)),
            )
            parts.append((abi.CHUNK_ID_IB, commands))
        if self._random.random() < 0.4:
            semaphore = abi.AmdgpuCsChunkSem(handle=self._random.randrange(HANDLES))
            parts.append((self._random.randrange(12), semaphore))
        chunks = (abi.AmdgpuCsChunk * len(parts))()
        pointers = (c.c_uint64 * len(parts))()
        for index, (kind, data) in enumerate(parts):
            if self._random.random() < 0.1:
                self._spoil(data)
            chunks[index].chunk_id = kind
            chunks[index].length_dw = c.sizeof(data) // 4
            chunks[index].chunk_data = c.addressof(data)
            pointers[index] = c.addressof(chunks[index])
        if self._random.random() < 0.1:
            self._spoil(chunks, 0.1)
        request = abi.AmdgpuCs()
        into = getattr(request, "in")
        into.ctx_id = self._random.randrange(8)
        into.num_chunks = len(parts)
        into.chunks = c.addressof(pointers)
        if self._random.random() < 0.1:
            self._spoil(request)
        self._do(abi.CS.number, request)

    def _fill(self) -> None:
        """Commands into some buffer, if it can be mapped."""
        asked = abi.AmdgpuGemMmap()
        getattr(asked, "in").handle = self._random.randrange(HANDLES)
        if self._do(abi.GEM_MMAP.number, asked) < 0:
            return
        dwords = self._commands()
        data = b"".join(dword.to_bytes(4, "little") for dword in dwords)
        try:
            with mmap.mmap(self._fd, PAGE, offset=int(asked.out.addr_ptr)) as memory:
                memory[: len(data)] = data
        except (OSError, ValueError):
            return  # closed by another thread meanwhile


def one_round(seed: str, render: str, primary: str) -> None:
    """Threads on one node, which is closed and opened anew while they are at it."""
    choice = random.Random(seed)
    fd = os.open(choice.choice((render, render, primary)), os.O_RDWR | os.O_CLOEXEC)
    end = time.monotonic() + ROUND_S
    fuzzes = [Fuzz(f"{seed}/{number}", fd) for number in range(THREADS)]
    threads = [threading.Thread(target=f.run, args=(end,), daemon=True) for f in fuzzes]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(choice.random())
        if choice.random() < 0.5:
            # The same number is another file now, whatever a thread is doing with it.
            fresh = os.open(choice.choice((render, primary)), os.O_RDWR | os.O_CLOEXEC)
            os.dup2(fresh, fd)
            os.close(fresh)
    print(sum(f.tried for f in fuzzes), sum(f.taken for f in fuzzes), flush=True)


def rounds(seed: int, seconds: float, render: str, primary: str) -> int:
    """Until the time is over; 0 unless a process would not die."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        child = os.fork()
        if child == 0:
            try:
                one_round(f"{seed}/{number}", render, primary)
            finally:
                os._exit(0)
        time.sleep(ROUND_S * random.Random(f"{seed}/{number}").choice((0.5, 1.1)))
        os.kill(child, signal.SIGKILL)
        if not dead(child):
            print(f"round {number} of seed {seed} does not die: its process is {child}")
            return errno.EBUSY
    print(f"{number} rounds of seed {seed}")
    return 0


def dead(child: int) -> bool:
    """Whether it is, in time."""
    end = time.monotonic() + DEATH_S
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(rounds(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]))
