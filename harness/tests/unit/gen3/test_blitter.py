"""Filled and copied rectangles, against what a plain loop over pixels does."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.rig import (
    BASE,
    BATCH,
    BATCH_END,
    CTL,
    MI_MODE,
    STORE_INDEX,
    SURFACE,
    Rig,
)
from tools.gen3.tiling import FENCES

PITCH, ROWS = 1024, 64
OTHER = SURFACE + (1 << 20)
WRITE_ALL = 3 << 20
COPY, FILL = 0xCC << 16, 0xF0 << 16
BITS_32, BITS_16, BITS_8 = 3 << 24, 1 << 24, 0


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rows = bytes(at * 7 & 0xFF for at in range(PITCH * ROWS))
    rig.chip.gtt.write(SURFACE, rows)
    rig.chip.gtt.write(OTHER, bytes(len(rows)))
    return rig


def xy(x: int, y: int) -> int:
    return (y & 0xFFFF) << 16 | x & 0xFFFF


def pixel(rig: Rig, base: int, x: int, y: int, size: int = 4) -> int:
    return rig.chip.read(2, base + y * PITCH + x * size, size)


def fill(color: int, br13: int = BITS_32 | FILL, channels: int = WRITE_ALL) -> tuple[int, ...]:
    """XY_COLOR_BLT of columns 2..9 and rows 3..8 of OTHER."""
    return (2 << 29 | 0x50 << 22 | channels | 4, br13 | PITCH, xy(2, 3), xy(10, 9), OTHER, color)


@pytest.mark.parametrize("tiling", [None, "x", "y"])
def test_a_filled_rectangle(rig: Rig, tiling: str | None) -> None:
    if tiling:
        rig[FENCES[0]] = OTHER | (tiling == "y") << 12 | (3 if tiling == "y" else 1) << 4 | 1
    rig.batch(*fill(0x11223344), BATCH_END)
    for y in range(12):
        for x in range(12):
            inside = 2 <= x < 10 and 3 <= y < 9
            assert pixel(rig, OTHER, x, y) == (0x11223344 if inside else 0), (x, y)


@pytest.mark.parametrize(("depth", "size"), [(BITS_16, 2), (BITS_8, 1)])
def test_narrow_pixels(rig: Rig, depth: int, size: int) -> None:
    rig.batch(*fill(0x11223344, depth | FILL), BATCH_END)
    expected = 0x11223344 & (1 << size * 8) - 1
    found = [pixel(rig, OTHER, x, 3, size) for x in range(1, 11)]
    assert found == [0] + [expected] * 8 + [0]


@pytest.mark.parametrize(
    ("channels", "expected"), [(1 << 20, 0xAA112233), (2 << 20, 0x55DDCCBB), (0, 0xAADDCCBB)]
)
def test_channels_that_are_not_written_stay(rig: Rig, channels: int, expected: int) -> None:
    rig.chip.write(2, OTHER + 3 * PITCH + 2 * 4, 4, 0xAADDCCBB)
    rig.batch(*fill(0x55112233, channels=channels), BATCH_END)
    assert pixel(rig, OTHER, 2, 3) == expected


def large(rig: Rig, color: int) -> int:
    """Fill all of OTHER, tiled so that it takes a while; the rows that are done at once."""
    rig[FENCES[0]] = OTHER | 1 << 12 | 3 << 4 | 1
    whole = xy(PITCH // 4, ROWS)
    rig.batch(0x50 << 22 | 2 << 29 | WRITE_ALL | 4, BITS_32 | FILL | PITCH, 0, whole, OTHER, color,
              BATCH_END)  # fmt: skip
    return done(rig, color)


def done(rig: Rig, color: int) -> int:
    """Rows of OTHER that are of one color."""
    rows = (rig.chip.gtt.read(OTHER + y * PITCH, PITCH) for y in range(ROWS))
    return sum(row == color.to_bytes(4, "little") * (PITCH // 4) for row in rows)


def test_the_processor_does_not_wait_for_a_large_blit(rig: Rig) -> None:
    assert 0 < large(rig, 7) < ROWS
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert not rig.idle()
    assert rig.status(0x30) == 0
    rig.wait(100)
    assert done(rig, 7) == ROWS
    assert rig.status(0x30) == 1
    assert rig.idle()


def test_a_large_blit_is_the_one_that_was_fetched(rig: Rig) -> None:
    large(rig, 7)
    rig.poke(BATCH, [0] * 16)
    rig.wait(100)
    assert done(rig, 7) == ROWS


@pytest.mark.parametrize("how", ["reset", "disable"])
def test_a_large_blit_ends_with_its_ring(rig: Rig, how: str) -> None:
    large(rig, 7)
    if how == "reset":
        rig.chip.config_write(0xC0, 1, 1)
    else:
        rig[CTL] = 0
    rig[FENCES[0]] = OTHER | 1 << 12 | 3 << 4 | 1
    rows = done(rig, 7)
    rig.wait(100)
    assert done(rig, 7) == rows < ROWS
    assert rig[MI_MODE] & 1 << 9


def test_a_copied_rectangle(rig: Rig) -> None:
    rig.batch(
        2 << 29 | 0x53 << 22 | WRITE_ALL | 6,
        BITS_32 | COPY | PITCH,
        xy(5, 1),
        xy(25, 11),
        OTHER,
        xy(40, 20),
        PITCH,
        SURFACE,
        BATCH_END,
    )
    for y in range(10):
        for x in range(20):
            source = pixel(rig, SURFACE, 40 + x, 20 + y)
            assert pixel(rig, OTHER, 5 + x, 1 + y) == source, (x, y)
    assert pixel(rig, OTHER, 4, 1) == pixel(rig, OTHER, 25, 1) == pixel(rig, OTHER, 5, 11) == 0


def test_an_overlapping_copy_moves(rig: Rig) -> None:
    before = [pixel(rig, SURFACE, 3, y) for y in range(20)]
    rig.batch(
        2 << 29 | 0x53 << 22 | WRITE_ALL | 6,
        BITS_32 | COPY | PITCH,
        xy(3, 2),
        xy(8, 20),
        SURFACE,
        xy(3, 0),
        PITCH,
        SURFACE,
        BATCH_END,
    )
    assert [pixel(rig, SURFACE, 3, y) for y in range(2, 20)] == before[:18]


def test_fill_and_copy_by_address(rig: Rig) -> None:
    rig.batch(
        *(2 << 29 | 0x40 << 22 | WRITE_ALL | 3, BITS_32 | FILL | PITCH, 4 << 16 | 64, OTHER, 9),
        2 << 29 | 0x43 << 22 | WRITE_ALL | 4,
        BITS_32 | COPY | PITCH,
        2 << 16 | 32,
        OTHER + 8 * PITCH,
        PITCH,
        OTHER + 2 * PITCH,
        BATCH_END,
    )
    assert pixel(rig, OTHER, 15, 3) == 9
    assert pixel(rig, OTHER, 16, 3) == pixel(rig, OTHER, 0, 4) == 0
    assert pixel(rig, OTHER, 7, 9) == 9
    assert pixel(rig, OTHER, 8, 9) == pixel(rig, OTHER, 0, 10) == 0


@pytest.mark.parametrize(
    ("rop", "expected"),
    [(0x5A, 0x0FF0 ^ 0x00FF), (0x00, 0), (0xFF, 0xFFFFFFFF), (0xA0, 0x00F0), (0xAA, 0x00FF)],
)
def test_raster_operations(rig: Rig, rop: int, expected: int) -> None:
    rig.chip.write(2, OTHER + 3 * PITCH + 2 * 4, 4, 0x00FF)
    rig.batch(*fill(0x0FF0, BITS_32 | rop << 16), BATCH_END)
    assert pixel(rig, OTHER, 2, 3) == expected


def test_a_rectangle_outside_of_the_gtt_is_lost(rig: Rig) -> None:
    # The page that a negative number would find from the other end.
    last = rig.chip.variant.gtt_bytes - 4
    rig.chip.write(3, last, 4, BASE + SURFACE | 1)
    before = bytes(rig.ram)
    height = 1 + (SURFACE >> 12)
    rig.batch(
        2 << 29 | 0x50 << 22 | WRITE_ALL | 4,
        BITS_32 | FILL | 4096,
        xy(0, -height),
        xy(16, -height + 1),
        SURFACE,
        1,
        BATCH_END,
    )
    assert rig.idle()
    # All behind the commands themselves is as it was.
    unchanged = rig.ram[BASE + SURFACE :] == before[BASE + SURFACE :]
    assert unchanged


def test_an_empty_or_inverted_rectangle_writes_nothing(rig: Rig) -> None:
    rig.batch(
        2 << 29 | 0x50 << 22 | WRITE_ALL | 4, BITS_32 | FILL | PITCH, 8, 2, OTHER, 1, BATCH_END
    )
    assert rig.idle()
    assert pixel(rig, OTHER, 0, 0) == 0
