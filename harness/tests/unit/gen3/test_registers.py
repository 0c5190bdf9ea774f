"""The register file: what each kind of register does with what is written."""

from __future__ import annotations

import pytest

from tools.gen3.registers import SIZE, Kind, Register, Registers

PLAIN = Register(0x2000, "FENCE_REG(0)", reset=0x11)
PART = Register(0x2020, "PGTBL_CTL", reset=0xE, writable=0xFFFF_F001)
MASKED = Register(0x209C, "RING_MI_MODE", kind=Kind.MASKED)
W1C = Register(0x20A4, "GEN2_IIR", kind=Kind.W1C)
FIXED = Register(0x20AC, "GEN2_ISR", reset=7, kind=Kind.READ_ONLY)


@pytest.fixture
def registers() -> Registers:
    file = Registers()
    file.declare([PLAIN, PART, MASKED, W1C, FIXED])
    return file


def test_what_no_table_declares_is_storage(registers: Registers) -> None:
    registers.write(SIZE - 4, 4, 0xDEADBEEF)
    assert registers.read(SIZE - 4, 4) == 0xDEADBEEF


def test_bytes_words_and_quadwords_are_lanes(registers: Registers) -> None:
    registers.write(0x6000, 8, 0x1122334455667788)
    registers.write(0x6001, 1, 0xAA)
    registers.write(0x6006, 2, 0xBBCC)
    assert registers.read(0x6000, 8) == 0xBBCC33445566AA88
    assert registers.read(0x6002, 2) == 0x5566
    assert registers.read(0x6007, 1) == 0xBB


def test_only_writable_bits_change(registers: Registers) -> None:
    registers.write(PART.offset, 4, 0x12345FF1)
    assert registers.read(PART.offset, 4) == 0x1234500F


def test_a_masked_register_takes_the_bits_its_upper_half_names(registers: Registers) -> None:
    registers.write(MASKED.offset, 4, 0x0300_0100)
    registers.write(MASKED.offset, 4, 0x0200_FFFF)
    assert registers.read(MASKED.offset, 4) == 0x0300
    registers.write(MASKED.offset, 2, 0)
    assert registers.read(MASKED.offset, 4) == 0x0300


def test_a_one_clears(registers: Registers) -> None:
    registers[W1C.offset] = 0xF0F0
    registers.write(W1C.offset, 4, 0x00F0)
    assert registers.read(W1C.offset, 4) == 0xF000
    registers.write(W1C.offset + 1, 1, 0x80)
    assert registers.read(W1C.offset, 4) == 0x7000


def test_a_read_only_register_stays(registers: Registers) -> None:
    registers.write(FIXED.offset, 4, 0)
    assert registers.read(FIXED.offset, 4) == 7


def test_functions_see_reads_and_writes(registers: Registers) -> None:
    seen: list[tuple[int, int]] = []
    registers.on_read(0x70000, lambda: 0x1234)
    registers.on_write(0x70000, lambda old, new: seen.append((old, new)))
    registers.on_write(0x70000, lambda old, new: seen.append((-1, new)))
    registers.write(0x70000, 4, 5)
    registers.write(0x70002, 2, 1)
    assert seen == [(0, 5), (-1, 5), (5, 0x10005), (-1, 0x10005)]
    assert registers.read(0x70001, 1) == 0x12
    assert registers[0x70000] == 0x10005


def test_restore_takes_both_ends_and_no_more(registers: Registers) -> None:
    for offset in (0x1FFC, 0x2000, 0x2004, 0x2008):
        registers.write(offset, 4, 0xFF)
    registers.restore(0x2000, 0x2004)
    assert [registers[o] for o in (0x1FFC, 0x2000, 0x2004, 0x2008)] == [0xFF, 0x11, 0, 0xFF]


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (Register(0x2000, "AGAIN"), "declared already, as FENCE_REG"),
        (Register(0x2002, "ODD"), "no dword"),
        (Register(SIZE, "BEYOND"), "no dword"),
    ],
)
def test_a_wrong_table_is_refused(registers: Registers, register: Register, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registers.declare([register])
