"""The monitor: detection, hotplug interrupt, and its EDID read as i915 reads it."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.screen import Screen
from tools.gen3.edid import EDID
from tools.gen3.interrupts import DISPLAY_PORT, IIR

ADPA, HOTPLUG_EN, HOTPLUG_STAT = 0x61100, 0x61110, 0x61114
FORCE_DETECT, HOTPLUG_INT = 1 << 3, 1 << 9
MONITOR, EVENT = 3 << 8, 1 << 11
GMBUS0, GMBUS1, GMBUS2, GMBUS3 = 0x5100, 0x5104, 0x5108, 0x510C
READY, WAIT, INDEX, STOP, CLEAR = 1 << 30, 1 << 25, 2 << 25, 4 << 25, 1 << 31
HW_READY, WAIT_PHASE, NAK, ACTIVE = 1 << 11, 1 << 14, 1 << 10, 1 << 9
VGA_PINS = 2
GPIOA = 0x5010


@pytest.fixture
def screen() -> Screen:
    return Screen()


def ddc(
    screen: Screen, address: int = 0x50, index: int = 0, count: int = 128, pins: int = VGA_PINS
) -> bytes | None:
    """An indexed read as do_gmbus_xfer does it; None when nobody answered."""
    screen.write(GMBUS0, pins)
    command = READY | WAIT | INDEX | count << 16 | index << 8 | address << 1 | 1
    screen.write(GMBUS1, command)
    data = b""
    while len(data) < count:
        status = screen.get(GMBUS2)
        if status & NAK:
            assert not status & ACTIVE
            screen.write(GMBUS1, CLEAR)
            screen.write(GMBUS1, 0)
            screen.write(GMBUS0, 0)
            return None
        assert status & HW_READY
        data += screen.get(GMBUS3).to_bytes(4, "little")
    assert screen.get(GMBUS2) & WAIT_PHASE
    screen.write(GMBUS1, STOP | READY)
    assert not screen.get(GMBUS2) & ACTIVE
    screen.write(GMBUS0, 0)
    return data[:count]


def detected(screen: Screen) -> bool:
    """intel_crt_detect_hotplug."""
    screen.write(HOTPLUG_EN, screen.get(HOTPLUG_EN) | FORCE_DETECT)
    assert not screen.get(HOTPLUG_EN) & FORCE_DETECT
    found = bool(screen.get(HOTPLUG_STAT) & MONITOR)
    screen.write(HOTPLUG_STAT, EVENT)
    return found


# -- EDID ------------------------------------------------------------------------------------


def test_the_edid_is_valid() -> None:
    assert len(EDID) == 128
    assert EDID.startswith(b"\x00\xff\xff\xff\xff\xff\xff\x00")
    assert sum(EDID) % 256 == 0
    # Version 1.3, analog, no extension.
    assert (EDID[18], EDID[19], EDID[20] & 0x80, EDID[126]) == (1, 3, 0, 0)


def test_it_prefers_1024x768() -> None:
    first = EDID[54:72]
    assert int.from_bytes(first[:2], "little") == 6500
    assert first[2] | first[4] >> 4 << 8 == 1024
    assert first[5] | first[7] >> 4 << 8 == 768
    assert EDID[24] & 1 << 1


def test_it_is_read_over_gmbus(screen: Screen) -> None:
    assert ddc(screen) == EDID
    assert ddc(screen, index=8, count=2) == EDID[8:10]
    # Reads that are no multiple of four, and ones past the block, end too.
    assert ddc(screen, count=3) == EDID[:3]
    assert ddc(screen, index=120, count=16) == EDID[120:] + b"\xff" * 8


def test_an_index_may_be_written_first(screen: Screen) -> None:
    screen.write(GMBUS0, VGA_PINS)
    screen.write(GMBUS3, 54)
    screen.write(GMBUS1, READY | WAIT | 1 << 16 | 0x50 << 1)
    assert screen.get(GMBUS2) & WAIT_PHASE
    screen.write(GMBUS1, READY | WAIT | 2 << 16 | 0x50 << 1 | 1)
    assert screen.get(GMBUS3) == int.from_bytes(EDID[54:56], "little")


@pytest.mark.parametrize(("address", "pins"), [(0x30, VGA_PINS), (0x51, VGA_PINS), (0x50, 5)])
def test_nobody_answers_elsewhere(screen: Screen, address: int, pins: int) -> None:
    assert ddc(screen, address=address, pins=pins) is None
    assert ddc(screen) == EDID


def test_an_edid_that_is_garbage_has_a_bad_checksum(screen: Screen) -> None:
    screen.faults.set("edid", "garbage")
    data = ddc(screen)
    assert data is not None
    assert sum(data) % 256 != 0
    assert data != EDID


def test_a_monitor_without_edid_is_there_all_the_same(screen: Screen) -> None:
    screen.faults.set("edid", "none")
    assert ddc(screen) is None
    assert detected(screen)


def test_gpio_lines_float_high_and_nobody_answers(screen: Screen) -> None:
    clock_in, data_in = 1 << 4, 1 << 12
    assert screen.get(GPIOA) & (clock_in | data_in) == clock_in | data_in
    # set_data(0) of intel_gmbus.c: direction out, value 0, both through their masks.
    screen.write(GPIOA, 1 << 8 | 1 << 9 | 1 << 10)
    assert not screen.get(GPIOA) & data_in
    assert screen.get(GPIOA) & clock_in
    # get_data looks with both masks off, and leaves the line as it is.
    screen.write(GPIOA, 0)
    assert not screen.get(GPIOA) & data_in
    screen.write(GPIOA, 1 << 8)
    assert screen.get(GPIOA) & data_in


# -- detection -------------------------------------------------------------------------------


def test_force_detect_sees_the_monitor(screen: Screen) -> None:
    assert detected(screen)
    screen.display.plug(False)
    assert not detected(screen)
    assert ddc(screen) is None
    screen.display.plug(True)
    assert detected(screen)


def test_load_detect_sees_it_too(screen: Screen) -> None:
    assert screen.registers.read(0x3C2, 1) & 1 << 4
    screen.display.plug(False)
    assert not screen.registers.read(0x3C2, 1) & 1 << 4


def test_no_sdvo_device_is_detected(screen: Screen) -> None:
    for offset in (0x61140, 0x61160):
        screen.write(offset, 0xFFFF_FFFF)
        assert not screen.get(offset) & 1 << 2


def test_plugging_interrupts_when_it_is_wanted(screen: Screen) -> None:
    screen.display.plug(False)
    assert screen.line == []
    screen.write(HOTPLUG_EN, HOTPLUG_INT)
    screen.display.plug(True)
    assert screen.line == [True]
    assert screen.iir() == DISPLAY_PORT
    status = screen.get(HOTPLUG_STAT)
    assert status & (EVENT | MONITOR) == EVENT | MONITOR
    # i9xx_hpd_irq_ack: written back until it reads zero.
    screen.write(HOTPLUG_STAT, status & EVENT)
    assert not screen.get(HOTPLUG_STAT) & EVENT
    screen.write(IIR, DISPLAY_PORT)
    assert screen.line == [True, False]
    screen.display.plug(True)
    assert screen.line == [True, False]


def test_force_detect_does_not_interrupt(screen: Screen) -> None:
    screen.write(HOTPLUG_EN, HOTPLUG_INT)
    assert detected(screen)
    assert screen.line == []


def test_a_reset_forgets_what_was_asked_for_but_not_the_monitor(screen: Screen) -> None:
    screen.write(HOTPLUG_EN, HOTPLUG_INT)
    screen.write(ADPA, 1 << 31 | 1 << 30)
    assert screen.display.state()["monitor"]["pipe"] == 1
    screen.display.plug(False)
    screen.display.reset()
    assert screen.isr() == 0
    assert screen.get(HOTPLUG_EN) == screen.get(HOTPLUG_STAT) == 0
    assert screen.display.state()["monitor"]["pipe"] is None
    screen.display.plug(True)
    assert detected(screen)
