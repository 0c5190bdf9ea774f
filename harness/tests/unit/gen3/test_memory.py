"""Guest RAM: where it is, where it is not, and that it is no copy."""

from __future__ import annotations

import os

import pytest

from harness.tests.unit.gen3.qemu_side import ram
from tools.gen3.memory import Memory, NoMemory, Section


def test_ram_of_a_test_is_at_its_address() -> None:
    held = bytearray(b"....abcd")
    memory = Memory.of(held, guest=0x1000)
    assert memory.read(0x1004, 4) == b"abcd"
    memory.write(0x1000, b"xy")
    assert held == b"xy..abcd"
    view = memory.view(0x1002, 2)
    view[:] = b"zz"
    assert held == b"xyzzabcd"


@pytest.mark.parametrize(("address", "n"), [(0xFFF, 1), (0x1008, 1), (0x1007, 2), (1 << 35, 4)])
def test_what_is_no_ram_reads_as_ones_and_loses_writes(address: int, n: int) -> None:
    held = bytearray(8)
    memory = Memory.of(held, guest=0x1000)
    assert memory.read(address, n) == b"\xff" * n
    memory.write(address, bytes(range(1, n + 1)))
    assert held == bytes(8)
    with pytest.raises(NoMemory, match=f"{address:#x} for {n} bytes"):
        memory.view(address, n)


def test_without_ram_nothing_is_there() -> None:
    assert Memory().read(0, 2) == b"\xff\xff"


def test_sections_are_found_in_any_order() -> None:
    high, low = ram(b"high"), ram(b"low")
    memory = Memory()
    memory.map(high, 4096, 0, 0x8000)
    memory.map(low, 4096, 0, 0x1000)
    for fd in (high, low):
        os.close(fd)  # the mapping stays
    assert memory.read(0x8000, 4) == b"high"
    assert memory.read(0x1000, 3) == b"low"
    assert memory.read(0x2000, 1) == b"\xff"


def test_the_same_ram_told_again_is_not_mapped_again() -> None:
    fd = ram(b"same")
    memory = Memory()
    memory.map(fd, 4096, 0, 0)
    held = memory.view(0, 4)
    again = os.dup(fd)
    memory.replace([Section(again, 4096, 0, 0x4000)])
    assert memory.read(0, 1) == b"\xff"
    assert memory.view(0x4000, 4).obj is held.obj
    os.close(fd)
    os.close(again)
