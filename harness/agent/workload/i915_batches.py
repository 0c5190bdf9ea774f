"""Batches for i915's engines: what hangs, and what proves an engine alive.

Pure functions from generations and addresses to bytes.  Sources: the MI_* commands in
drivers/gpu/drm/i915/gt/intel_gpu_commands.h and the public programmer's reference manuals;
the spinner's layout is that of IGT's lib/igt_dummyload.c, so that its captures look familiar.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "END",
    "FILLED",
    "SIZE",
    "TARGET",
    "Address",
    "Batch",
    "fill",
    "fills",
    "invalid",
    "nothing",
    "spin",
    "store",
    "zeros",
]

SIZE = 4096
"""Bytes of a batch: one page; only that of `fills` may be several."""

FILLED = 4 << 20
"""Bytes of each rectangle of `fills`."""

TARGET = 2048
"""Bytes into another page: what `store` and `fill` write.  A batch may not write its own."""

END = 0x05000000
"""MI_BATCH_BUFFER_END."""

_ARB_CHECK = 0x05 << 23
_BATCH_BUFFER_START = 0x31 << 23
_CONDITIONAL_END = 0x36 << 23
_STORE_DWORD_IMM = 0x20 << 23
_COMPARE = 1 << 21
_USE_GGTT = 1 << 22  # of MI_STORE_DWORD_IMM before generation 6
_GTT = 2 << 6  # MI_BATCH_GTT: the start of a batch before generation 6
_UNTRUSTED = 1 << 8  # MI_BATCH_NON_SECURE of generation 6, MI_BATCH_PPGTT from 7 on
_NON_SECURE = 1  # in the address, up to generation 3
_XY_COLOR_BLT = 2 << 29 | 0x50 << 22 | 3 << 20  # writing colour and alpha
_BLT_DWORDS, _BLT_ADDRESS = 6, 4
_DEPTH_32 = 3 << 24
_PATTERN_COPY = 0xF0 << 16  # as a raster operation: the colour as it is
_NO_COMMAND = 0xDEADBEEF  # of a client that no generation has (bits 31:29)

# In dwords.  The padding between gives a GPU that spins some rest.
_LOOP = 16
_JUMP = 976
_COUNTED = 1022


class Address(NamedTuple):
    """An address within a batch: that which it was made for, plus `delta`, stands at byte
    `offset`; with `write` that is where it writes."""

    offset: int
    delta: int
    write: bool


class Batch(NamedTuple):
    """`data` for the presumed address, of itself or of what it writes, and `addresses` to be
    mended for another one.

    Unless None, writing END at byte `release` makes the batch come to its end.
    """

    data: bytes
    addresses: tuple[Address, ...]
    release: int | None


def spin(generation: int, address: int, preemptible: bool) -> Batch:
    """A loop without end; with `preemptible` another context may get a turn in it."""
    words: dict[int, int] = {}
    at = _JUMP
    if preemptible:
        words[_LOOP] = _ARB_CHECK
        at += 1
    addresses = []
    release = 4 * _LOOP
    if generation >= 8:
        # Ends where memory is not above END, so that the CPU need write but one dword.
        release = 4 * _COUNTED
        words |= {at: _CONDITIONAL_END | _COMPARE | 2, at + 1: END}
        words |= {_COUNTED: 0xFFFFFFFF, _COUNTED + 1: 0xFFFFFFFF}
        addresses.append(Address(4 * (at + 2), release, False))
        at += 4
    words[at] = _BATCH_BUFFER_START | _jump(generation)
    target = 4 * _LOOP | (_NON_SECURE if generation < 4 else 0)
    addresses.append(Address(4 * (at + 1), target, False))
    return _batch(generation, address, words, addresses, release)


def invalid(generation: int, address: int) -> Batch:
    """A command that is none, in a loop in case it is passed over.  Only a reset ends it."""
    words = {_LOOP: _NO_COMMAND, _JUMP: _BATCH_BUFFER_START | _jump(generation)}
    target = 4 * _LOOP | (_NON_SECURE if generation < 4 else 0)
    return _batch(generation, address, words, [Address(4 * (_JUMP + 1), target, False)], None)


def zeros() -> Batch:
    """No end: after a page of MI_NOOP whatever lies behind it is run."""
    return Batch(bytes(SIZE), (), None)


def store(generation: int, address: int, value: int) -> Batch:
    """Write `value` at TARGET of the page at `address`, and end."""
    words: dict[int, int]
    if generation < 4:
        # One dword shorter than later: it has no upper half of the address.
        words = {0: _STORE_DWORD_IMM | _USE_GGTT | 1, 2: value, 3: END}
        place = 4
    elif generation < 8:
        ggtt = _USE_GGTT if generation < 6 else 0
        words = {0: _STORE_DWORD_IMM | ggtt | 2, 3: value, 4: END}
        place = 8
    else:
        words = {0: _STORE_DWORD_IMM | 2, 3: value, 4: END}
        place = 4
    return _batch(generation, address, words, [Address(place, TARGET, True)], None)


def fill(address: int, value: int) -> Batch:
    """The same by drawing one pixel: for render engines before generation 6 that cannot store."""
    words = _rectangle(0, 1, 1, 64, value) | {_BLT_DWORDS: END}
    return _batch(2, address, words, [Address(4 * _BLT_ADDRESS, TARGET, True)], None)


def fills(address: int, value: int, count: int) -> Batch:
    """Work that lasts: fill the FILLED bytes at `address` `count` times over.

    For engines that have the 2D commands of before generation 8.
    """
    pitch = 2048
    words = _rectangle(0, pitch // 4, FILLED // pitch, pitch, value)
    one = struct.pack(f"<{_BLT_DWORDS}I", *(words.get(n, address) for n in range(_BLT_DWORDS)))
    data = one * count + struct.pack("<I", END)
    places = tuple(Address(len(one) * n + 4 * _BLT_ADDRESS, 0, True) for n in range(count))
    return Batch(data.ljust(-(-len(data) // SIZE) * SIZE, b"\0"), places, None)


def _rectangle(at: int, width: int, height: int, pitch: int, value: int) -> dict[int, int]:
    """XY_COLOR_BLT of a whole surface of so many pixels, but for _BLT_ADDRESS."""
    return {
        at: _XY_COLOR_BLT | (_BLT_DWORDS - 2),
        at + 1: _DEPTH_32 | _PATTERN_COPY | pitch,
        at + 2: 0,
        at + 3: height << 16 | width,
        at + 5: value,
    }


def nothing() -> Batch:
    """Just end."""
    return _batch(2, 0, {0: END}, [], None)


def _jump(generation: int) -> int:
    """The flags of MI_BATCH_BUFFER_START."""
    if generation < 6:
        return _GTT
    return _UNTRUSTED | (1 if generation >= 8 else 0)


def _batch(
    generation: int,
    address: int,
    words: dict[int, int],
    addresses: list[Address],
    release: int | None,
) -> Batch:
    data = bytearray(SIZE)
    for index, word in words.items():
        struct.pack_into("<I", data, 4 * index, word)
    for one in addresses:
        struct.pack_into("<I", data, one.offset, (address + one.delta) & 0xFFFFFFFF)
        if generation >= 8:
            struct.pack_into("<I", data, one.offset + 4, (address + one.delta) >> 32)
    return Batch(bytes(data), tuple(addresses), release)
