"""The chip as a PCI function: configuration space, BARs, reset, and its faults."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.rig import (
    BASE,
    BATCH,
    BATCH_START,
    CTL,
    IIR,
    MI_MODE,
    SCRATCH,
    STORE_INDEX,
    TAIL,
    USER_INTERRUPT,
    Rig,
)

GDRST = 0xC0
PGTBL_CTL, FENCE, DPLL, PIPECONF = 0x2020, 0x2000, 0x6014, 0x70008


@pytest.fixture
def rig() -> Rig:
    return Rig("g33")


@pytest.mark.parametrize(
    ("name", "device", "aperture", "gtt"),
    [("g33", 0x29C2, 64, 128), ("945g", 0x2772, 256, 256)],
)
def test_the_header_of_configuration_space(name: str, device: int, aperture: int, gtt: int) -> None:
    chip = Rig(name).chip
    assert chip.config_read(0, 4) == 0x8086 | device << 16
    assert chip.config_read(0x0A, 2) == 0x0380
    assert chip.config_read(0x3D, 1) == 1
    assert chip.config_read(0x34, 1) == 0
    sizes = []
    for bar in range(7):
        chip.config_write(0x10 + 4 * bar, 4, 0xFFFF_FFFF)
        value = chip.config_read(0x10 + 4 * bar, 4)
        sizes.append(-(value & ~0xF) & 0xFFFF_FFFF)
    assert sizes == [512 << 10, 16, aperture << 20, gtt << 10, 0, 0, 0]


def test_only_what_is_writable_is_written(rig: Rig) -> None:
    rig.chip.config_write(0, 4, 0)
    rig.chip.config_write(4, 2, 0xFFFF)
    rig.chip.config_write(0x10, 4, 0xFEB8_1234)
    rig.chip.config_write(0x18, 4, 0xD234_5678)
    rig.chip.config_write(0x3C, 1, 11)
    rig.chip.config_write(0xF0, 2, 0x1234)
    assert rig.chip.config_read(0, 2) == 0x8086
    assert rig.chip.config_read(4, 2) == 0x0407
    assert rig.chip.config_read(0x10, 4) == 0xFEB8_0000
    assert rig.chip.config_read(0x18, 4) == 0xD000_0008
    assert rig.chip.config_read(0x3C, 2) == 0x010B
    assert rig.chip.config_read(0xF0, 2) == 0x1234


def test_ptes_read_back_and_translate_the_aperture(rig: Rig) -> None:
    rig.chip.write(3, 4 * 0x30, 4, 0x0020_0001)
    assert rig.chip.read(3, 4 * 0x30, 4) == 0x0020_0001
    rig.chip.write(2, 0x30FFC, 8, 0x1122334455667788)
    assert rig.ram[0x20_0FFC:0x20_1000] == (0x55667788).to_bytes(4, "little")
    # The other half is on the next page, which is mapped elsewhere.
    assert rig.peek(0x31000) == 0x11223344
    assert rig.chip.read(2, 0x30FFC, 8) == 0x1122334455667788
    assert rig.chip.read(2, 0x30FFD, 2) == 0x6677


def test_ptes_of_g33_reach_beyond_4_gib() -> None:
    assert _translated("g33", 0x1000_10A1) == 0xA_1000_1000
    assert _translated("945g", 0x1000_10A1) == 0x1000_1000


def _translated(name: str, pte: int) -> int | None:
    rig = Rig(name)
    rig.chip.write(3, 0, 4, pte)
    return rig.chip.gtt.translate(0)


def test_a_page_that_is_not_mapped_reads_zero_and_loses_writes(rig: Rig) -> None:
    rig.chip.write(3, 4 * 0x30, 4, 0)
    rig.chip.write(2, SCRATCH, 4, 5)
    assert rig.chip.read(2, SCRATCH, 4) == 0
    assert rig.chip.gtt.translate(1 << 20) is None


def test_a_reset_of_g33_wipes_and_clears_itself(rig: Rig) -> None:
    _dirty(rig)
    rig.chip.config_write(GDRST, 1, 1)
    assert rig.chip.config_read(GDRST, 1) == 0
    _assert_wiped(rig)


def test_a_reset_of_945g_is_acknowledged_while_it_is_asserted() -> None:
    rig = Rig("945g")
    _dirty(rig)
    rig.chip.config_write(GDRST, 1, 1)
    assert rig.chip.config_read(GDRST, 1) == 3
    rig.chip.config_write(GDRST, 1, 0)
    assert rig.chip.config_read(GDRST, 1) == 0
    _assert_wiped(rig)


def _dirty(rig: Rig) -> None:
    rig[FENCE] = 0x0010_0001
    rig[DPLL] = 0x8000_0000
    rig[PIPECONF] = 0x8000_0000
    rig[MI_MODE] = 0x0100_0100
    rig[PGTBL_CTL] = rig[PGTBL_CTL] | 1
    rig.emit(USER_INTERRUPT)
    rig[MI_MODE] = 0x0100_0000
    rig.batch(BATCH_START, BATCH)
    assert rig.line == [True]


def _assert_wiped(rig: Rig) -> None:
    assert rig.line == [True, False]
    for register in (FENCE, DPLL, PIPECONF, CTL, TAIL, IIR):
        assert rig[register] == 0, f"{register:#x}"
    assert rig[PGTBL_CTL] & 1
    assert rig.chip.gtt.translate(0) == BASE
    assert rig.chip.gtt.fences.by_megabyte == {}
    assert rig[MI_MODE] == 1 << 9
    assert rig.chip.due() is None
    assert rig.chip.state()["resets"] == 1


def test_a_reset_acknowledged_late(rig: Rig) -> None:
    rig.chip.faults.set("reset_ack", "late:20")
    rig.batch(BATCH_START, BATCH)
    rig.chip.config_write(GDRST, 1, 1)
    rig.wait(19)
    assert rig.chip.config_read(GDRST, 1) == 1
    assert rig[CTL] != 0
    rig.wait(2)
    assert rig[CTL] == 0
    assert rig.chip.config_read(GDRST, 1) == 0


def test_a_late_reset_is_seen_by_who_polls(rig: Rig) -> None:
    rig.chip.faults.set("reset_ack", "late:20")
    rig.chip.config_write(GDRST, 1, 1)
    rig.now += 20_000_000
    assert rig.chip.config_read(GDRST, 1) == 0


def attempt(rig: Rig) -> bool:
    """One attempt of i915's: i915_do_reset on 945G, g33_do_reset on G33."""
    held = rig.chip.variant.name == "945g"
    rig.chip.config_write(GDRST, 1, 1)
    rig.wait(50)
    value = rig.chip.config_read(GDRST, 1)
    if held:
        rig.chip.config_write(GDRST, 1, 0)
    return value == (3 if held else 0)


@pytest.mark.parametrize("name", ["g33", "945g"])
def test_a_reset_never_acknowledged_is_asked_for_again(name: str) -> None:
    rig = Rig(name)
    rig.chip.faults.set("reset_ack", "never")
    assert [attempt(rig) for _ in range(3)] == [False] * 3
    assert rig[CTL] != 0
    rig.chip.faults.reset()
    assert attempt(rig)
    assert rig[CTL] == 0
    state = rig.chip.state()
    assert (state["resets_asked"], state["resets"]) == (4, 1)


@pytest.mark.parametrize("name", ["g33", "945g"])
def test_a_reset_under_way_is_not_begun_anew(name: str) -> None:
    rig = Rig(name)
    rig.chip.faults.set("reset_ack", "late:20")
    for _ in range(2):
        rig.chip.config_write(GDRST, 1, 1)
        rig.wait(19)
    state = rig.chip.state()
    assert (state["resets_asked"], state["resets"]) == (1, 1)


def test_a_head_stuck_inside_a_packet(rig: Rig) -> None:
    rig.chip.faults.set("ring_stuck", "once")
    rig.emit(USER_INTERRUPT, STORE_INDEX, 0xC0, 1)
    assert rig.head() == 8
    assert rig.status(0x30) == 0
    assert not rig[MI_MODE] & 1 << 9
    _recover(rig)


def test_a_corrupt_ring(rig: Rig) -> None:
    rig.chip.faults.set("ring_corrupt", "once")
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert rig[0x208C] == 0xFFFF_FFFF
    assert rig[0x20B8] == 1
    assert rig.status(0x30) == 0
    _recover(rig)


def test_a_page_table_error(rig: Rig) -> None:
    rig[0x20B4] = ~(1 << 4) & 0xFFFF_FFFF
    rig.chip.faults.set("page_table_error", "once")
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert rig[0x20B0] == 1 << 4
    assert rig.line == [True]
    assert rig.status(0x30) == 0
    _recover(rig)


def _recover(rig: Rig) -> None:
    """A reset brings the ring back, and the fault struck only once."""
    rig.chip.config_write(GDRST, 1, 1)
    rig.start()
    rig.emit(STORE_INDEX, 0xC0, 2)
    assert rig.status(0x30) == 2
    assert rig.idle()


def test_a_fault_that_strikes_always_outlives_the_reset(rig: Rig) -> None:
    rig.chip.faults.set("ring_stuck", "always")
    for _ in range(2):
        rig.emit(STORE_INDEX, 0xC0, 1)
        assert rig.status(0x30) == 0
        rig.chip.config_write(GDRST, 1, 1)
        rig.start()


def test_the_bits_of_the_swizzle_detection_differ(rig: Rig) -> None:
    assert rig.chip.read(0, 0x10206, 2) != rig.chip.read(0, 0x10606, 2)


def test_state_is_plain_data(rig: Rig) -> None:
    rig.batch(BATCH_START, BATCH)
    state = rig.chip.state()
    ring = state["ring"]
    assert isinstance(ring, dict)
    assert ring["in_batch"] is True
    assert ring["acthd"] == BATCH
    assert state["chip"] == "g33"
