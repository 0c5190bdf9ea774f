"""The display on a whole chip: what it scans out comes through the GTT, fences and all."""

from __future__ import annotations

import numpy as np
import pytest

from harness.tests.unit.gen3.rig import BASE, SURFACE, Rig
from harness.tests.unit.gen3.screen import VGA, Screen
from tools.gen3.frame import Frame
from tools.gen3.reset import GDRST
from tools.gen3.tiling import FENCES

GREEN = (0, 0xFF, 0)
WIDTH, HEIGHT, PITCH = 256, 64, 1024
# An X tiled fence of 1 MiB with a pitch of two tiles.
X_TILED = SURFACE | 1 << 4 | 1
CURSOR_64 = 0x27


class Board(Screen):
    """The driver's side of a display that is on a chip."""

    def __init__(self, variant: str = "g33") -> None:
        self.rig = Rig(variant)
        self.registers = self.rig.chip.registers
        self.display = self.rig.chip.display

    def frame(self) -> Frame:
        return self.shown()


@pytest.fixture
def board() -> Board:
    return Board()


def picture() -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.uint32)
    return np.asarray(rows << 16 | columns << 8 | (rows ^ columns) & 0xFF, dtype=np.uint32)


def draw(board: Board, pixels: np.ndarray[tuple[int, int], np.dtype[np.uint32]]) -> None:
    """By the CPU, through the aperture."""
    for y, row in enumerate(pixels):
        for x in range(0, WIDTH, 2):
            value = int(row[x]) | int(row[x + 1]) << 32
            board.rig.chip.write(2, SURFACE + y * PITCH + x * 4, 8, value)


def seen(board: Board) -> bytes:
    """The upper left of the frame."""
    frame = board.frame()
    step = 3 * frame.width
    return b"".join(frame.rgb[y * step : y * step + 3 * WIDTH] for y in range(HEIGHT))


def test_a_tiled_surface_is_scanned_out_through_its_fence(board: Board) -> None:
    board.rig[FENCES[3]] = X_TILED
    pixels = picture()
    draw(board, pixels)
    board.plane(SURFACE, WIDTH, HEIGHT, stride=PITCH)
    board.start(VGA)
    assert seen(board) == Frame.of(pixels).rgb
    board.rig[FENCES[3]] = 0
    assert seen(board) != Frame.of(pixels).rgb


def test_a_linear_surface_needs_none(board: Board) -> None:
    pixels = picture()
    draw(board, pixels)
    board.plane(SURFACE, WIDTH, HEIGHT, stride=PITCH)
    board.start(VGA)
    assert seen(board) == Frame.of(pixels).rgb


@pytest.mark.parametrize(("variant", "at"), [("g33", BASE + SURFACE), ("945g", SURFACE)])
def test_a_cursor_comes_from_the_gtt_or_from_ram(variant: str, at: int) -> None:
    board = Board(variant)
    pixels = np.full(64 * 64, 0xFF00FF00, dtype="<u4").tobytes()
    board.rig.ram[at : at + len(pixels)] = pixels
    board.write(0x70080, CURSOR_64)
    board.write(0x70084, SURFACE)
    board.start(VGA)
    assert board.frame().pixel(63, 63) == GREEN
    assert board.frame().pixel(64, 64) == (0, 0, 0)


def test_the_chip_waits_for_its_vblank(board: Board) -> None:
    chip = board.rig.chip
    assert chip.due() is None
    board.start(VGA)
    due = chip.due()
    assert due is not None
    assert due == pytest.approx(15_200_000, rel=0.05)
    board.write(0x70024, 1 << 17 | 0xFFFF)
    board.write(0x20A0, 0xFFFF_FFFF)
    board.write(0x20A8, 0)
    board.rig.now = due
    chip.tick(due)
    assert board.rig.line == [True]
    assert chip.state()["display"]


def test_gdrst_takes_the_display(board: Board) -> None:
    board.plane(SURFACE, WIDTH, HEIGHT, stride=PITCH)
    board.start(VGA)
    board.write(0xA000, 0x123456)
    assert board.display.frame(0) is not None
    board.rig.chip.config_write(GDRST, 1, 1)
    assert board.display.frame(0) is None
    assert [board.get(at) for at in (0x70008, 0x70180, 0x60000, 0x6014, 0xA000)] == [0] * 5
    assert board.rig.chip.due() is None
