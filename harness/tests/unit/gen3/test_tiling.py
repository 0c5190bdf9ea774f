"""Fences: the CPU's and the blitter's accesses are detiled."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.rig import SURFACE, Rig
from tools.gen3.tiling import FENCES

PITCH = 1024


def fence(start: int, pitch_bits: int, y_tiled: bool, megabytes_log2: int = 0) -> int:
    """A fence register's value, as i915_write_fence_reg makes it."""
    return start | y_tiled << 12 | megabytes_log2 << 8 | pitch_bits << 4 | 1


@pytest.fixture
def rig() -> Rig:
    return Rig()


def x_place(x: int, y: int) -> int:
    """Where an X tiled surface of PITCH keeps a byte: tiles of 512 bytes by 8 rows."""
    return (y // 8 * (PITCH // 512) + x // 512) * 4096 + y % 8 * 512 + x % 512


def y_place(x: int, y: int) -> int:
    """The same for Y: tiles of 128 bytes by 32 rows, in columns of 16 bytes."""
    column = x % 128 // 16 * 512 + y % 32 * 16 + x % 16
    return (y // 32 * (PITCH // 128) + x // 128) * 4096 + column


@pytest.mark.parametrize("y_tiled", [False, True])
@pytest.mark.parametrize("number", [0, 7, 8, 15])
def test_the_aperture_is_detiled(rig: Rig, y_tiled: bool, number: int) -> None:
    place = y_place if y_tiled else x_place
    rig[FENCES[number]] = fence(SURFACE, 3 if y_tiled else 1, y_tiled)
    for x, y in ((0, 0), (508, 7), (512, 0), (1020, 31), (16, 33), (128, 100), (1016, 1023)):
        rig.chip.write(2, SURFACE + y * PITCH + x, 4, x << 16 | y)
        assert rig.peek(SURFACE + place(x, y)) == x << 16 | y
        assert rig.chip.read(2, SURFACE + y * PITCH + x, 4) == x << 16 | y


def test_an_access_over_two_tiles_is_split(rig: Rig) -> None:
    rig[FENCES[0]] = fence(SURFACE, 1, False)
    rig.chip.write(2, SURFACE + 508, 8, 0x1111111122222222)
    assert rig.peek(SURFACE + 508) == 0x22222222
    assert rig.peek(SURFACE + 4096) == 0x11111111


def test_a_fence_covers_its_size_and_nothing_else(rig: Rig) -> None:
    rig[FENCES[3]] = fence(SURFACE, 1, False, megabytes_log2=1)
    for address in (SURFACE - PITCH, SURFACE + (2 << 20) + PITCH):
        rig.chip.write(2, address, 4, 5)
        assert rig.peek(address) == 5
    inside = SURFACE + (1 << 20) + PITCH
    rig.chip.write(2, inside, 4, 6)
    assert rig.peek(inside) == 0
    assert rig.peek(SURFACE + (1 << 20) + 512) == 6


def test_a_fence_taken_away_leaves_the_tiles(rig: Rig) -> None:
    rig[FENCES[0]] = fence(SURFACE, 1, False)
    rig.chip.write(2, SURFACE + PITCH, 4, 7)
    rig[FENCES[0]] = 0
    assert rig.chip.read(2, SURFACE + PITCH, 4) == 0
    assert rig.chip.read(2, SURFACE + 512, 4) == 7


def test_a_long_read_is_in_rows(rig: Rig) -> None:
    rig[FENCES[0]] = fence(SURFACE, 3, True)
    data = bytes(range(256)) * 32
    rig.chip.gtt.write(SURFACE, data)
    assert rig.chip.gtt.read(SURFACE, len(data)) == data
    assert rig.peek(SURFACE + 16) == int.from_bytes(data[PITCH : PITCH + 4], "little")
