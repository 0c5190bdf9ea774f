"""What is scanned out: planes, formats, cursor, flips at the vertical blank, and its CRC."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from harness.tests.unit.gen3.screen import MS, VGA, XGA, Screen
from tools.gen3.crc import channels
from tools.gen3.frame import Frame

RED, GREEN, BLUE = (0xFF, 0, 0), (0, 0xFF, 0), (0, 0, 0xFF)
BLACK, WHITE = (0, 0, 0), (0xFF, 0xFF, 0xFF)
FRAME_NS = 17 * MS
CRC_CTL, CRC_RES, STAT = 0x60050, 0x60060, 0x70024
CRC_EN, CRC_DONE = 1 << 28, 1 << 12
CURSOR = 0x70080
ARGB_64 = 0x27


@pytest.fixture
def screen() -> Screen:
    screen = Screen()
    screen.paint(0, 0xFF0000)
    screen.paint(0x200000, 0x0000FF)
    return screen


def crcs(screen: Screen, pipe: int = 0) -> list[int]:
    return [screen.get(CRC_RES + pipe * 0x1000 + 4 * n) for n in range(4)]


def decoded(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and pixels of an RGB PNG with unfiltered rows; its checksums must be right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height, *layout = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert layout == [8, 2, 0, 0, 0]
    rows = zlib.decompress(chunks[b"IDAT"])
    step = 1 + 3 * width
    assert len(rows) == step * height
    assert set(rows[::step]) == {0}
    return width, height, b"".join(rows[y * step + 1 : (y + 1) * step] for y in range(height))


# -- planes ----------------------------------------------------------------------------------


def test_a_pipe_without_a_plane_is_black(screen: Screen) -> None:
    screen.start()
    frame = screen.shown()
    assert (frame.width, frame.height) == (640, 480)
    assert frame.rgb == bytes(3 * 640 * 480)


def test_a_pipe_that_is_off_shows_nothing(screen: Screen) -> None:
    screen.plane(0)
    assert screen.display.frame(0) is None
    with pytest.raises(ValueError, match="no pipe 2"):
        screen.display.frame(2)


def test_no_picture_is_larger_than_gen3_can_show(screen: Screen) -> None:
    screen.start()
    screen.write(0x6001C, 0xFFFF_FFFF)
    frame = screen.shown()
    assert (frame.width, frame.height) == (4096, 4096)
    screen.write(0x6001C, 0xF3FF_F2FF)
    frame = screen.shown()
    assert (frame.width, frame.height) == (1024, 768)


def test_a_plane_enabled_before_its_pipe_is_there_from_the_start(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    assert screen.shown().pixel(639, 479) == RED


def test_a_flip_is_shown_from_the_next_frame_on(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.wait(5 * MS)
    screen.flip(0x200000)
    assert screen.shown().pixel(0, 0) == RED
    screen.wait(FRAME_NS)
    assert screen.shown().pixel(0, 0) == BLUE


def test_half_an_update_is_never_shown(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.write(0x70190, 15 << 16 | 15)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(639, 479) == RED
    screen.flip(0)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(15, 15) == RED
    assert screen.shown().pixel(16, 15) == BLACK


def test_an_armed_update_is_what_it_was_when_armed(screen: Screen) -> None:
    """Nobody looks between the vertical blank and the next write."""
    screen.plane(0)
    screen.start()
    screen.wait(5 * MS)
    screen.flip(0x200000)
    screen.wait(FRAME_NS)
    screen.write(0x70190, 0)
    assert screen.shown().pixel(100, 100) == BLUE


def test_a_plane_goes_off_at_the_next_frame(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.write(0x70180, 0)
    screen.flip(0)
    assert screen.shown().pixel(0, 0) == RED
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(0, 0) == BLACK


def test_a_plane_may_be_smaller_than_its_pipe(screen: Screen) -> None:
    screen.plane(0, 40, 10, stride=640 * 4, at=(600, 470), plane=1)
    screen.start()
    frame = screen.shown()
    assert frame.pixel(600, 470) == RED
    assert frame.pixel(599, 470) == BLACK
    assert frame.pixel(600, 469) == BLACK
    assert frame.pixel(639, 479) == RED


def test_either_plane_can_be_on_either_pipe(screen: Screen) -> None:
    screen.plane(0, plane=0, pipe=1)
    screen.plane(0x200000, plane=1, pipe=0)
    screen.start(VGA, 0)
    screen.start(VGA, 1)
    assert screen.shown(0).pixel(0, 0) == BLUE
    assert screen.shown(1).pixel(0, 0) == RED


def test_rows_are_a_stride_apart(screen: Screen) -> None:
    for row in range(4):
        screen.paint(0x400000 + row * 8192, (RED, GREEN, BLUE, WHITE)[row][0] << 16 | row, 640)
    screen.plane(0x400000, 640, 4, stride=8192)
    screen.start()
    assert [screen.shown().pixel(639, row)[2] for row in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        (5, struct.pack("<H", 0xF800), RED),
        (5, struct.pack("<H", 0x07E0), GREEN),
        (5, struct.pack("<H", 0x8410), (0x84, 0x82, 0x84)),
        (4, struct.pack("<H", 0x7C00), RED),
        (4, struct.pack("<H", 0x83E0), GREEN),
        (6, struct.pack("<I", 0xFF123456), (0x12, 0x34, 0x56)),
        (7, struct.pack("<I", 0x00123456), (0x12, 0x34, 0x56)),
        (14, struct.pack("<I", 0xFF123456), (0x56, 0x34, 0x12)),
        (2, b"\x07", (0x11, 0x22, 0x33)),
    ],
)
def test_formats(screen: Screen, kind: int, raw: bytes, expected: tuple[int, int, int]) -> None:
    screen.memory[0x400000 : 0x400000 + 640 * 480 * len(raw)] = raw * (640 * 480)
    screen.write(0xA000 + 4 * 7, 0x112233)
    screen.plane(0x400000, kind=kind)
    screen.start()
    assert screen.shown().pixel(0, 0) == expected
    assert screen.shown().pixel(639, 479) == expected


def test_a_gamma_table_is_looked_up_only_while_it_is_enabled(screen: Screen) -> None:
    for n in range(256):
        screen.write(0xA000 + 4 * n, (255 - n) << 16 | n << 8 | n)
    screen.paint(0, 0x40FF80)
    screen.plane(0)
    screen.start()
    assert screen.shown().pixel(0, 0) == (0x40, 0xFF, 0x80)
    screen.plane(0, gamma=True)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(0, 0) == (0xBF, 0xFF, 0x80)


def test_the_driver_reads_back_what_it_wrote(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.flip(0x200000)
    assert screen.get(0x70184) == 0x200000


# -- cursor ----------------------------------------------------------------------------------


def cursor(screen: Screen, x: int, y: int, control: int = ARGB_64, index: int = 0) -> None:
    """i9xx_cursor_update_arm; a place left or above of the screen is negative."""
    at = CURSOR + 0x40 * index
    place = sum((0x8000 | -v if v < 0 else v) << shift for v, shift in ((x, 0), (y, 16)))
    screen.write(at, control)
    screen.write(at + 8, place)
    screen.write(at + 4, 0x700000)


def test_a_cursor_covers_what_is_below(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.paint(0x700000, 0xFF00FF00, 64 * 64)
    cursor(screen, 100, 50)
    screen.wait(2 * FRAME_NS)
    frame = screen.shown()
    assert frame.pixel(100, 50) == GREEN
    assert frame.pixel(163, 113) == GREEN
    assert {frame.pixel(*at) for at in ((99, 50), (164, 50), (100, 49), (100, 114))} == {RED}


def test_a_cursor_is_blended_premultiplied(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.paint(0x700000, 0x80008000, 64 * 64)
    cursor(screen, 0, 0)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(0, 0) == (0x7F, 0x80, 0)


def test_a_cursor_may_be_partly_off_the_screen(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.paint(0x700000, 0xFF00FF00, 64 * 64)
    cursor(screen, -32, -60)
    screen.wait(2 * FRAME_NS)
    frame = screen.shown()
    assert [frame.pixel(*at) for at in ((31, 3), (32, 3), (31, 4))] == [GREEN, RED, RED]
    cursor(screen, 639, 479)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(639, 479) == GREEN
    cursor(screen, 5000, 5000)
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(639, 479) == RED


def test_a_cursor_moves_only_with_the_next_frame(screen: Screen) -> None:
    screen.start()
    screen.paint(0x700000, 0xFF00FF00, 64 * 64)
    cursor(screen, 0, 0)
    screen.wait(2 * FRAME_NS)
    cursor(screen, 200, 200)
    assert screen.shown().pixel(0, 0) == GREEN
    screen.wait(2 * FRAME_NS)
    assert screen.shown().pixel(0, 0) == BLACK
    assert screen.shown().pixel(200, 200) == GREEN


def test_the_second_cursor_can_be_on_the_first_pipe(screen: Screen) -> None:
    screen.start()
    screen.start(VGA, 1)
    screen.paint(0x700000, 0xFF00FF00, 64 * 64)
    cursor(screen, 0, 0, ARGB_64 | 1 << 28, index=0)
    cursor(screen, 0, 0, ARGB_64, index=1)
    screen.wait(2 * FRAME_NS)
    assert screen.shown(0).pixel(0, 0) == GREEN
    assert screen.shown(1).pixel(0, 0) == GREEN
    cursor(screen, 0, 0, 0, index=1)
    screen.wait(2 * FRAME_NS)
    assert screen.shown(0).pixel(0, 0) == BLACK


# -- frame dumps -----------------------------------------------------------------------------


def test_the_dump_is_the_frame(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    assert decoded(screen.display.png(0)) == (640, 480, bytes(RED) * (640 * 480))


def test_a_picture_is_gone_after_a_reset_and_back_after_a_restore(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    picture = screen.display.png(0)
    screen.display.reset()
    assert decoded(screen.display.png(0)) == (640, 480, bytes(3 * 640 * 480))
    assert screen.display.state()["pipes"][0]["running"] is False
    screen.start()
    assert decoded(screen.display.png(0))[2] == bytes(3 * 640 * 480)
    screen.plane(0)
    screen.wait(2 * FRAME_NS)
    assert screen.display.png(0) == picture
    assert decoded(screen.display.png_at_reset(0)) == (640, 480, bytes(3 * 640 * 480))


def test_a_frame_of_pixels() -> None:
    frame = Frame.of(np.array([[0x010203, 0xFFFFFFFF], [0, 0x0000FF]], dtype=np.uint32))
    assert frame.rgb == bytes((1, 2, 3, 255, 255, 255, 0, 0, 0, 0, 0, 255))
    assert decoded(frame.png()) == (2, 2, frame.rgb)


# -- CRC -------------------------------------------------------------------------------------


def enable_crc(screen: Screen) -> None:
    """As i915 does: the interrupt always, the unit when somebody reads."""
    screen.write(STAT, CRC_EN | 0xFFFF)
    screen.write(CRC_CTL, 1 << 31)


def test_no_crc_unless_one_is_wanted(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    screen.write(STAT, CRC_EN | 0xFFFF)
    screen.run(100 * MS)
    assert not screen.get(STAT) & CRC_DONE
    assert crcs(screen) == [0, 0, 0, 0]
    assert screen.line == []


def test_a_crc_is_delivered_with_each_frame(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    enable_crc(screen)
    screen.run(FRAME_NS)
    assert screen.line == [True]
    assert screen.get(STAT) & CRC_DONE
    first = crcs(screen)
    assert all(first)
    assert max(first) < 1 << 23
    screen.write(STAT, CRC_EN | 0xFFFF)
    screen.run(FRAME_NS)
    assert screen.get(STAT) & CRC_DONE
    assert crcs(screen) == first


def test_the_crc_is_of_the_frame_that_ended(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    enable_crc(screen)
    screen.run(FRAME_NS)
    red = crcs(screen)
    screen.flip(0x200000)
    due = screen.display.due()
    assert due is not None
    screen.run(due - screen.now)
    assert crcs(screen) == red
    screen.run(FRAME_NS)
    assert crcs(screen) != red
    blue = np.full((480, 640), 0x0000FF, dtype=np.uint32)
    assert crcs(screen) == list(channels(blue))


def test_the_channels_are_told_apart(screen: Screen) -> None:
    red, blue = (
        channels(np.full((8, 8), pixel, dtype=np.uint32)) for pixel in (0xFF0000, 0x0000FF)
    )
    assert red[0] == blue[2] != red[2] == blue[0]
    assert red[1] == blue[1]


def test_a_changed_byte_changes_the_crc(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    enable_crc(screen)
    screen.run(FRAME_NS)
    before = crcs(screen)
    screen.memory[4 * 640 * 100] ^= 1
    screen.run(FRAME_NS)
    after = crcs(screen)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_the_same_picture_in_another_format_has_the_same_crc(screen: Screen) -> None:
    screen.plane(0)
    screen.start()
    enable_crc(screen)
    screen.run(FRAME_NS)
    before = crcs(screen)
    screen.memory[0x400000 : 0x400000 + 640 * 480 * 2] = b"\x00\xf8" * (640 * 480)
    screen.plane(0x400000, kind=5)
    screen.run(3 * FRAME_NS)
    assert crcs(screen) == before


def test_each_pipe_has_its_own(screen: Screen) -> None:
    screen.plane(0, XGA.width, XGA.height, plane=1, pipe=1)
    screen.start(XGA, 1)
    screen.write(CRC_CTL + 0x1000, 1 << 31)
    screen.run(FRAME_NS)
    assert all(crcs(screen, 1))
    assert not any(crcs(screen, 0))


def test_a_crc_of_a_port_that_is_not_there_never_comes(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, CRC_EN | 0xFFFF)
    screen.write(CRC_CTL, 1 << 31 | 4 << 28)
    screen.run(100 * MS)
    assert screen.line == []
