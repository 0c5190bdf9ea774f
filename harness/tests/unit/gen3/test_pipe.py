"""Pipes by register accesses alone: the beam, its counters, PIPESTAT and the vblank interrupt."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.screen import MS, VGA, XGA, Mode, Screen, dividers
from tools.gen3.beam import BEGIN_NS, CURSOR_NS, PLANE_NS, WAIT_NS
from tools.gen3.interrupts import IIR, PIPE_A_EVENT, PIPE_B_EVENT
from tools.gen3.timing import dot_clock, programmed

DSL, CONF, STAT, FRAME, PIXEL = 0x70000, 0x70008, 0x70024, 0x70040, 0x70044
VBLANK_EN, VBLANK = 1 << 17, 1 << 1
# A frame of VGA lasts 16.7 ms, its vertical blank begins at line 480 of 525.
FRAME_MS = 16.7


@pytest.fixture
def screen() -> Screen:
    return Screen()


def counter(screen: Screen, pipe: int = 0) -> int:
    """Vertical blanks as i915_get_vblank_counter counts them."""
    at = pipe * 0x1000
    high, low = screen.get(FRAME + at), screen.get(PIXEL + at)
    count = high << 8 | low >> 24
    mode = VGA
    htotal = mode.horizontal[3]
    begin = mode.vertical[0] * htotal - (htotal - mode.horizontal[1])
    return count + ((low & 0xFFFFFF) >= begin)


@pytest.mark.parametrize("mode", [VGA, XGA])
def test_the_dot_clock_follows_the_dividers(mode: Mode) -> None:
    assert dot_clock(*dividers(mode.clock_hz)) == pytest.approx(mode.clock_hz, rel=0.005)


def test_no_clock_without_its_oscillator() -> None:
    dpll, fp = dividers(VGA.clock_hz)
    assert dot_clock(dpll & ~(1 << 31), fp) == 0
    assert dot_clock(dpll & ~0xFF0000, fp) == 0


@pytest.mark.parametrize("mode", [VGA, XGA])
def test_a_programmed_mode_refreshes_at_60_hz(screen: Screen, mode: Mode) -> None:
    screen.program(mode)
    timing = programmed(screen.registers, 0)
    assert timing is not None
    assert (timing.width, timing.height) == (mode.width, mode.height)
    assert timing.refresh_hz == pytest.approx(60, rel=0.01)


def test_the_second_set_of_dividers_is_taken_when_it_is_selected(screen: Screen) -> None:
    screen.program(VGA)
    dpll, _ = dividers(VGA.clock_hz)
    _, other = dividers(XGA.clock_hz)
    screen.write(0x6044, other)
    before = programmed(screen.registers, 0)
    screen.write(0x6014, dpll | 1 << 8)
    after = programmed(screen.registers, 0)
    assert before is not None
    assert after is not None
    assert after.clock_hz == dot_clock(dpll, other) != before.clock_hz


def test_the_scanline_moves_while_the_pipe_is_on(screen: Screen) -> None:
    assert screen.get(DSL) == 0
    screen.start()
    seen = set()
    for _ in range(100):
        screen.wait(100_000)
        seen.add(screen.get(DSL))
    assert len(seen) == 100
    assert max(seen) < 525


def test_the_scanline_stands_still_while_the_pipe_is_off(screen: Screen) -> None:
    screen.start()
    screen.wait(5 * MS)
    screen.stop()
    rest = screen.get(DSL)
    assert rest != 0
    screen.wait(5 * MS)
    assert screen.get(DSL) == rest
    assert screen.display.frame(0) is None


def test_a_pipe_without_a_clock_does_not_start(screen: Screen) -> None:
    screen.write(CONF, 1 << 31)
    screen.wait(5 * MS)
    assert screen.get(DSL) == 0
    screen.program(VGA)
    screen.wait(5 * MS)
    assert screen.get(DSL) > 0


def test_the_frame_counter_counts_with_the_first_visible_line(screen: Screen) -> None:
    screen.start()
    screen.wait(int(100.5 * FRAME_MS * MS))
    assert screen.get(FRAME) << 8 | screen.get(PIXEL) >> 24 == 100
    assert screen.get(PIXEL) & 0xFFFFFF == pytest.approx(800 * 525 / 2, rel=0.3)


def test_it_goes_on_counting_after_it_was_off(screen: Screen) -> None:
    screen.start()
    screen.wait(int(300.5 * FRAME_MS * MS))
    screen.stop()
    rest = counter(screen)
    screen.wait(1000 * MS)
    assert counter(screen) == rest
    screen.start()
    assert counter(screen) >= rest


def test_the_vblank_is_where_the_driver_computes_it(screen: Screen) -> None:
    """At the interrupt the counter has counted and the scanline, plus one, is in the blank."""
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    due = screen.display.due()
    assert due is not None
    screen.wait(due - screen.now - 1)
    before = counter(screen)
    assert screen.get(DSL) + 1 == 479
    screen.run(1)
    assert screen.iir() & PIPE_A_EVENT
    assert counter(screen) == before + 1
    assert screen.get(DSL) + 1 == 480


def test_no_interrupt_while_it_is_not_enabled(screen: Screen) -> None:
    screen.start()
    screen.run(100 * MS)
    assert screen.line == []
    # The status is set all the same.
    assert screen.get(STAT) & VBLANK


def test_an_interrupt_for_each_frame_while_it_is_enabled(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    for _ in range(10):
        screen.line.clear()
        screen.run(int(FRAME_MS * MS))
        assert screen.line == [True]
        # The handler: status, then IIR (i9xx_pipestat_irq_ack, i915_irq_handler).
        status = screen.get(STAT)
        assert status & VBLANK
        screen.write(STAT, status & 0xFFFF)
        screen.write(STAT, VBLANK_EN)
        screen.write(IIR, PIPE_A_EVENT)
        assert screen.line == [True, False]
    screen.write(STAT, VBLANK)
    screen.line.clear()
    screen.run(100 * MS)
    assert screen.line == []


def test_an_event_not_acknowledged_stays_up(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    screen.run(20 * MS)
    screen.write(IIR, PIPE_A_EVENT)
    assert screen.iir() & PIPE_A_EVENT
    screen.write(STAT, VBLANK_EN | VBLANK)
    screen.write(IIR, PIPE_A_EVENT)
    assert not screen.iir() & PIPE_A_EVENT


def test_status_bits_are_cleared_one_by_one_and_enables_are_as_written(screen: Screen) -> None:
    screen.start()
    screen.wait(20 * MS)
    assert screen.get(STAT) == VBLANK | 1 << 9
    screen.write(STAT, VBLANK)
    assert screen.get(STAT) == 1 << 9
    screen.write(STAT, 0x1000_0000)
    assert screen.get(STAT) == 0x1000_0000 | 1 << 9


def test_a_stale_vblank_does_not_interrupt_when_enabling_clears_it(screen: Screen) -> None:
    screen.start()
    screen.wait(100 * MS)
    screen.write(STAT, VBLANK_EN | VBLANK)
    assert screen.line == []


def test_no_fifo_underrun_is_ever_reported(screen: Screen) -> None:
    screen.start()
    for _ in range(20):
        screen.wait(7 * MS)
        assert not screen.get(STAT) & 1 << 31


def test_a_late_tick_counts_every_frame_and_interrupts_once(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    screen.wait(int(10.5 * FRAME_MS * MS))
    screen.display.tick(screen.now)
    assert screen.display.vblanks(0) == 10
    assert screen.line == [True]


def test_both_pipes_run_at_once(screen: Screen) -> None:
    screen.start(VGA, 0)
    screen.start(XGA, 1)
    for pipe in (0, 1):
        screen.write(STAT + pipe * 0x1000, VBLANK_EN | 0xFFFF)
    screen.run(20 * MS)
    assert screen.iir() & (PIPE_A_EVENT | PIPE_B_EVENT) == PIPE_A_EVENT | PIPE_B_EVENT
    screen.stop(0)
    screen.write(STAT, 0xFFFF)
    screen.write(STAT + 0x1000, VBLANK_EN | 0xFFFF)
    screen.write(IIR, 0xFFFF_FFFF)
    screen.run(20 * MS)
    assert screen.iir() == PIPE_B_EVENT


def test_whoever_wants_to_know_is_told_of_each_vblank(screen: Screen) -> None:
    told: list[int] = []
    screen.display.on_vblank = told.append
    assert screen.display.due() is None
    screen.start(VGA, 1)
    screen.run(int(3.5 * FRAME_MS * MS))
    assert told == [1, 1, 1]
    screen.stop(1)
    screen.run(100 * MS)
    assert told == [1, 1, 1]
    assert screen.display.due() is None


# -- holding up a vertical blank -----------------------------------------------------------


def until_vblank(screen: Screen, ns: int) -> None:
    """Wait until so long before the next vertical blank."""
    due = screen.display.due()
    assert due is not None
    screen.wait(due - screen.now - ns)


def begin(screen: Screen) -> int:
    """intel_pipe_update_start, at a time at which the scanline is not near the vblank."""
    assert screen.get(DSL) + 1 < 465
    return counter(screen)


def end(screen: Screen) -> int:
    """intel_pipe_update_end."""
    screen.get(DSL)
    return counter(screen)


@pytest.mark.parametrize("ms", [1, 3, 9, 17])
def test_no_vblank_within_an_update_however_slow(screen: Screen, ms: int) -> None:
    """Each access takes `ms`, as on an overloaded host."""
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    for _ in range(5):
        screen.run(300 * MS)
        until_vblank(screen, 1_000_000)
        start = begin(screen)
        screen.run(ms * MS)
        screen.write(0x70180, 1 << 31)
        screen.run(ms * MS)
        screen.flip(0)
        screen.run(ms * MS)
        screen.get(DSL)
        screen.run(ms * MS)
        screen.get(FRAME)
        screen.run(ms * MS)
        assert counter(screen) == start
        before = screen.display.vblanks(0)
        screen.run(1)
        assert screen.display.vblanks(0) - before <= 1


@pytest.mark.parametrize("ms", [1, 9])
def test_a_strict_vblank_waits_for_no_update(screen: Screen, ms: int) -> None:
    """As `test_no_vblank_within_an_update_however_slow`: now i915 would report it."""
    screen.start()
    screen.faults.set("vblank_strict", "on")
    until_vblank(screen, 1_000_000)
    start = begin(screen)
    screen.run(ms * MS)
    screen.write(0x70180, 1 << 31)
    screen.flip(0)
    assert end(screen) == start + 1
    # Off again, it waits.
    screen.faults.reset()
    until_vblank(screen, 1_000_000)
    start = begin(screen)
    screen.run(3 * MS)
    assert end(screen) == start


def test_a_strict_vblank_comes_at_once_when_one_waits(screen: Screen) -> None:
    screen.start()
    until_vblank(screen, 1_000_000)
    start = begin(screen)
    screen.run(2 * MS)
    screen.flip(0)
    screen.faults.set("vblank_strict", "on")
    screen.run(1)
    assert end(screen) == start + 1


def test_the_vblank_comes_right_after_the_update(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    until_vblank(screen, 1_000_000)
    start = begin(screen)
    screen.flip(0)
    screen.run(2 * MS)
    assert screen.line == []
    assert end(screen) == start
    screen.run(1)
    assert screen.line == [True]
    assert counter(screen) == start + 1


def test_an_update_beside_a_handler_that_looks(screen: Screen) -> None:
    """The interrupt of a vertical blank that has begun on another CPU: it is seen, and stays."""
    screen.start()
    until_vblank(screen, 1_000_000)
    start = begin(screen)
    screen.run(BEGIN_NS + 2 * MS)
    assert counter(screen) == start + 1
    screen.flip(0)
    assert end(screen) == start + 1


def test_a_vblank_long_past_stays(screen: Screen) -> None:
    """A write that no look at the counter came before."""
    screen.start()
    screen.wait(1000 * MS)
    screen.flip(0)
    assert screen.display.vblanks(0) == 59


@pytest.mark.parametrize(("offset", "ns"), [(0x70184, PLANE_NS), (0x70084, CURSOR_NS)])
def test_an_update_that_nothing_ends_is_over_soon(screen: Screen, offset: int, ns: int) -> None:
    screen.start()
    until_vblank(screen, 10_000)
    screen.write(offset, 0)
    assert screen.display.due() == screen.now + ns
    screen.wait(ns - 1)
    assert screen.display.vblanks(0) == 0
    screen.wait(1)
    assert screen.display.vblanks(0) == 1


def test_it_cannot_be_put_off_for_ever(screen: Screen) -> None:
    screen.start()
    until_vblank(screen, 1_000)
    due = screen.now + 1_000
    while screen.display.vblanks(0) == 0 and screen.now <= due + 2 * WAIT_NS:
        screen.flip(0)
        screen.wait(MS)
    assert due + WAIT_NS - 2 * MS <= screen.now <= due + WAIT_NS + 2 * MS


def test_looking_puts_nothing_off(screen: Screen) -> None:
    """drm_update_vblank_count, from anywhere."""
    screen.start()
    until_vblank(screen, 10_000)
    due = screen.display.due()
    for _ in range(3):
        counter(screen)
        screen.get(PIXEL)
        counter(screen)
    assert screen.display.due() == due


def test_who_sleeps_until_the_vblank_is_not_kept_waiting(screen: Screen) -> None:
    """intel_vblank_evade: too close to the vertical blank to begin an update."""
    screen.start()
    until_vblank(screen, 200_000)
    due = screen.now + 200_000
    assert 465 < screen.get(DSL) + 1 < 480
    assert screen.display.due() == due
    screen.wait(200_000)
    assert screen.get(DSL) + 1 == 480


def test_preparing_an_update_puts_nothing_off(screen: Screen) -> None:
    """i9xx_plane_update_noarm comes before the driver evades the vertical blank."""
    screen.start()
    until_vblank(screen, 200_000)
    due = screen.display.due()
    screen.write(0x70188, 4096)
    screen.write(0x70190, 0)
    assert screen.display.due() == due


def test_a_quiet_bus_leaves_the_frame_as_long_as_it_is(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    begun = screen.now
    for _ in range(60):
        due = screen.display.due()
        assert due is not None
        screen.now = due
        screen.display.tick(due)
        # A flip right after the interrupt, as a client does that waits for its event.
        screen.flip(0)
    assert (screen.now - begun) / 60 == pytest.approx(FRAME_MS * MS, rel=0.02)


# -- faults and resets -----------------------------------------------------------------------


def test_a_frozen_vblank_goes_on_where_it_stood(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    screen.wait(5 * MS)
    line = screen.get(DSL)
    screen.faults.set("vblank_frozen", "on")
    assert screen.display.due() is None
    screen.wait(1000 * MS)
    assert screen.get(DSL) == line
    assert screen.line == []
    screen.faults.set("vblank_frozen", "off")
    assert screen.get(DSL) == line
    screen.run(20 * MS)
    assert screen.line == [True]


def test_a_dead_pipe_does_not_start(screen: Screen) -> None:
    screen.faults.set("pipe_dead", "on")
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    screen.run(100 * MS)
    assert (screen.get(DSL), screen.line) == (0, [])
    assert screen.display.frame(0) is None
    screen.faults.set("pipe_dead", "off")
    screen.stop()
    screen.start()
    screen.wait(MS)
    assert screen.get(DSL) > 0


def test_a_reset_takes_the_pipe_down(screen: Screen) -> None:
    screen.start()
    screen.write(STAT, VBLANK_EN | 0xFFFF)
    screen.run(20 * MS)
    screen.display.reset()
    screen.interrupts.reset()
    for offset in (CONF, STAT, DSL, FRAME, PIXEL, 0x60000, 0x6014, 0x70180):
        assert screen.get(offset) == 0, hex(offset)
    assert screen.isr() == 0
    assert screen.line == [True, False]
    assert screen.display.due() is None
    screen.start()
    screen.wait(5 * MS)
    assert screen.get(DSL) > 0
