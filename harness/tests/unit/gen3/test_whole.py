"""The parts together: the ring and the display, fences and scan-out, a reset under a mode."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.rig import STORE_INDEX, SURFACE, Rig
from harness.tests.unit.gen3.screen import VGA, Screen
from tools.gen3.tiling import FENCES

WAIT_FOR_EVENT, WAIT_VBLANK_A, WAIT_FLIP_A = 0x03 << 23, 1 << 3, 1 << 2
PIPECONF, PIPESTAT, FLIP_PENDING_A = 0x70008, 0x70024, 1 << 11
PITCH = 4096
RED, BLUE = 0xFF0000, 0x0000FF


class Whole(Screen):
    """A chip whose display is programmed as the display's own bench does it."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.registers = self.rig.chip.registers
        self.display = self.rig.chip.display

    def fill(self, address: int, colour: int) -> None:
        """One row of VGA's width after the other, PITCH apart, by the CPU."""
        row = colour.to_bytes(4, "little") * VGA.width
        for y in range(VGA.height):
            self.rig.chip.gtt.write(address + y * PITCH, row)

    def colour(self, x: int, y: int) -> tuple[int, int, int]:
        return self.shown().pixel(x, y)


@pytest.fixture
def whole() -> Whole:
    whole = Whole()
    whole.start()
    return whole


def test_a_real_vblank_ends_the_rings_wait(whole: Whole) -> None:
    rig = whole.rig
    rig.emit(WAIT_FOR_EVENT | WAIT_VBLANK_A)
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert rig.status(0x30) == 0
    rig.wait(20)
    assert rig.status(0x30) == 1


def test_the_ring_waits_for_ever_for_a_pipe_that_is_off(whole: Whole) -> None:
    whole.stop()
    whole.rig.emit(WAIT_FOR_EVENT | WAIT_VBLANK_A)
    whole.rig.wait(1000)
    assert not whole.rig.idle()


@pytest.mark.parametrize("y_tiled", [False, True])
def test_a_tiled_picture_is_shown_upright(whole: Whole, y_tiled: bool) -> None:
    pitch_bits = 5 if y_tiled else 3
    whole.rig[FENCES[2]] = SURFACE | y_tiled << 12 | 1 << 8 | pitch_bits << 4 | 1
    whole.fill(SURFACE, BLUE)
    for y in range(100, 200):
        whole.rig.chip.gtt.write(SURFACE + y * PITCH + 4 * 50, RED.to_bytes(4, "little") * 300)
    whole.plane(SURFACE, stride=PITCH)
    whole.rig.wait(20)
    assert whole.colour(49, 150) == whole.colour(50, 99) == (0, 0, 255)
    assert whole.colour(50, 100) == whole.colour(349, 199) == (255, 0, 0)
    assert whole.colour(350, 199) == whole.colour(50, 200) == (0, 0, 255)


def test_a_flip_by_the_ring_is_shown_at_the_vblank(whole: Whole) -> None:
    rig, other = whole.rig, SURFACE + (4 << 20)
    whole.fill(SURFACE, RED)
    whole.fill(other, BLUE)
    whole.plane(SURFACE, stride=PITCH)
    rig.wait(20)
    assert whole.colour(0, 0) == (255, 0, 0)
    rig.emit(0x14 << 23 | 1, PITCH, other)
    rig.emit(WAIT_FOR_EVENT | WAIT_FLIP_A)
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert rig.status(0x30) == 0
    rig.wait(20)
    assert rig.status(0x30) == 1
    assert whole.colour(0, 0) == (0, 0, 255)


def test_a_reset_takes_the_mode_with_it(whole: Whole) -> None:
    rig = whole.rig
    whole.plane(SURFACE, stride=PITCH)
    rig[PIPESTAT] = 1 << 17
    rig[0x20A0] = rig[0x20A0] | 1 << 6
    rig[0x20A8] = rig[0x20A8] & ~(1 << 6)
    rig.wait(20)
    assert rig.line == [True]
    rig.chip.config_write(0xC0, 1, 1)
    assert rig.line == [True, False]
    assert rig[PIPECONF] == rig[PIPESTAT] == 0
    assert whole.display.frame(0) is None
    rig.wait(100)
    assert rig.line == [True, False]
    whole.start()
    assert whole.display.frame(0) is not None
