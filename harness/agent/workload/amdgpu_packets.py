"""Command streams for amdgpu's rings: what hangs, and what proves a ring alive.

Pure functions from addresses to dwords.  Sources: PACKET3 and its opcodes in
drivers/gpu/drm/amd/amdgpu/nvd.h, SDMA packets in navi10_sdma_pkt_open.h.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

__all__ = ["COPIED", "RECIPES", "Recipe", "copy", "fillers", "pad", "store"]

COPIED = 1 << 19
"""Bytes of a `copy`: what the SDMA engines of every chip take in one packet (copy_max_bytes)."""


_NOP_PM4 = 0xFFFF1000  # PACKET3(NOP, 0x3fff): the one-dword filler
_NOP_SDMA = 0
_PM4_WRITE_DATA = 0x37
_PM4_WAIT_REG_MEM = 0x3C
_SDMA_ILLEGAL = 0xF2
_PM4_ILLEGAL = 0xF2  # unassigned on every chip: 0xf1 to 0xfb
_SDMA_COPY = 1
_SDMA_WRITE = 2
_SDMA_POLL_REGMEM = 8
_NOT_EQUAL = 4
_ALL_BITS = 0xFFFFFFFF
_ALIGNED = 0xFFFFFFFC
_KERNELS_PAGE_TABLE = 0x54F  # mmVM_CONTEXT0_PAGE_TABLE_BASE_ADDR, as a dword's index
_UNMAPPED = 0xDEADBEE0


class Recipe(NamedTuple):
    """How to hang: `build(engine, polled address, target address)` gives the dwords.

    `releasable`: the CPU ends it by writing 1 to the polled dword, which is 0.
    """

    engines: tuple[str, ...]
    releasable: bool
    build: Callable[[str, int, int], list[int]]


def _packet3(op: int, count: int) -> int:
    """A type 3 header; `count` is the number of dwords after it, minus one."""
    return 3 << 30 | (op & 0xFF) << 8 | (count & 0x3FFF) << 16


def _low(address: int) -> int:
    return address & _ALIGNED


def _high(address: int) -> int:
    return address >> 32


def _wait_reg_mem(_engine: str, polled: int, _target: int) -> list[int]:
    """Wait until the polled dword differs from 0, asking every 4 cycles."""
    memory, micro_engine = 1 << 4, 0 << 8
    return [
        _packet3(_PM4_WAIT_REG_MEM, 5),
        memory | _NOT_EQUAL | micro_engine,
        _low(polled),
        _high(polled),
        0,
        _ALL_BITS,
        4,
    ]


def _poll_regmem(_engine: str, polled: int, _target: int) -> list[int]:
    """The same on an SDMA ring; 0xfff tries mean without end."""
    memory = 1 << 31
    return [
        _SDMA_POLL_REGMEM | _NOT_EQUAL << 28 | memory,
        _low(polled),
        _high(polled),
        0,
        _ALL_BITS,
        0xFFF << 16 | 4,
    ]


def _illegal_opcode(engine: str, _polled: int, target: int) -> list[int]:
    """A packet of no known type, with a body that would write, were it executed."""
    if engine == "sdma":
        return [_SDMA_ILLEGAL, *store(engine, target, 0xDEADBEAF, True)[1:]]
    return [_packet3(_PM4_ILLEGAL, 2 + 128), *_write_data(target, [0xDEADBEAF] * 8)[1:]]


def _bad_sdma_header(_engine: str, _polled: int, target: int) -> list[int]:
    """A linear copy whose header names no operation."""
    return [0x23DECD3D, 1023, 0, _low(target), _high(target), _low(target), _high(target)]


def _bad_length(_engine: str, _polled: int, target: int) -> list[int]:
    """A write whose header promises far more dwords than the buffer has."""
    return [_packet3(_PM4_WRITE_DATA, 0x1000), *_write_data(target, [0xDEADBEAF] * 4)[1:]]


def _illegal_register(_engine: str, _polled: int, _target: int) -> list[int]:
    """A write to a register that is none of a client's: VM_CONTEXT0_PAGE_TABLE_BASE_ADDR."""
    confirm = 1 << 20
    return [_packet3(_PM4_WRITE_DATA, 3), confirm, _KERNELS_PAGE_TABLE, 0, 0xDEADBEEF]


def _illegal_memory(_engine: str, _polled: int, _target: int) -> list[int]:
    """A write to an address where nothing is mapped."""
    return _write_data(_UNMAPPED, [0xDEADBEEF])


RECIPES: dict[str, Recipe] = {
    "wait_reg_mem": Recipe(("gfx", "compute"), True, _wait_reg_mem),
    "poll_regmem": Recipe(("sdma",), True, _poll_regmem),
    "illegal_opcode": Recipe(("gfx", "compute", "sdma"), False, _illegal_opcode),
    "bad_sdma_header": Recipe(("sdma",), False, _bad_sdma_header),
    "bad_length": Recipe(("gfx", "compute"), False, _bad_length),
    "illegal_register": Recipe(("gfx", "compute"), False, _illegal_register),
    "illegal_memory": Recipe(("gfx", "compute"), False, _illegal_memory),
}


def _write_data(address: int, values: list[int]) -> list[int]:
    """PM4: write to memory and have the write confirmed before going on."""
    memory, confirm = 5 << 8, 1 << 20
    header = _packet3(_PM4_WRITE_DATA, 2 + len(values))
    return [header, memory | confirm, _low(address), _high(address), *values]


def store(engine: str, address: int, value: int, counts_minus_one: bool) -> list[int]:
    """Write one dword by the GPU.

    `counts_minus_one`: SDMA from Vega on says one less than it writes
    (sdma_v3_0.c and sdma_v4_0.c, ring_test_ib).
    """
    if engine == "sdma":
        count = 0 if counts_minus_one else 1
        return [_SDMA_WRITE, _low(address), _high(address), count, value]
    return _write_data(address, [value])


def copy(source: int, to: int, counts_minus_one: bool) -> list[int]:
    """Copy COPIED bytes on an SDMA ring (sdma_v5_0.c, sdma_v5_0_emit_copy_buffer)."""
    count = COPIED - 1 if counts_minus_one else COPIED
    return [_SDMA_COPY, count, 0, _low(source), _high(source), _low(to), _high(to)]


def pad(engine: str, dwords: list[int], multiple: int) -> list[int]:
    """Fill with no-operations up to a multiple of `multiple` dwords."""
    return dwords + fillers(engine, len(dwords), multiple)


def fillers(engine: str, length: int, multiple: int) -> list[int]:
    """The no-operations that fill `length` dwords up to a multiple of `multiple`."""
    filler = _NOP_SDMA if engine == "sdma" else _NOP_PM4
    return [filler] * (-length % multiple)
