"""The ring and its commands, driven by registers alone."""

from __future__ import annotations

import pytest

from harness.tests.unit.gen3.rig import (
    BASE,
    BATCH,
    BATCH_END,
    BATCH_START,
    CTL,
    HEAD,
    IIR,
    MI_MODE,
    RAM,
    RING,
    RING_BYTES,
    SCRATCH,
    STORE_IMM,
    STORE_INDEX,
    TAIL,
    USER_INTERRUPT,
    VIRTUAL,
    Rig,
)

ACTHD, IPEHR, INSTDONE, ESR = 0x20C8, 0x208C, 0x2090, 0x20B8
STOP_RING = 1 << 8
PARSER_DONE = 1 << 26
LOAD_REGISTER = 0x22 << 23 | 1
WAIT_FOR_EVENT = 0x03 << 23
ARB_CHECK = 0x05 << 23


@pytest.fixture(params=["g33", "945g"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def test_a_breadcrumb_reaches_the_status_page_and_raises_the_line(rig: Rig) -> None:
    rig.emit(STORE_INDEX, 0x30 * 4, 42, USER_INTERRUPT)
    assert rig.status(0x30) == 42
    assert rig.idle()
    assert rig[IIR] == 2
    rig[IIR] = 2
    assert rig.line == [True, False]


def test_store_dword_goes_to_the_gtt_or_to_memory(rig: Rig) -> None:
    rig.emit(STORE_IMM | VIRTUAL, SCRATCH, 0x1234)
    rig.emit(STORE_IMM, 0x8000, 0x5678)
    assert rig.peek(SCRATCH) == 0x1234
    assert rig.ram[0x8000:0x8004] == (0x5678).to_bytes(4, "little")


def test_a_batch_runs_and_returns(rig: Rig) -> None:
    rig.batch(STORE_IMM | VIRTUAL, SCRATCH, 7, BATCH_END, STORE_IMM | VIRTUAL, SCRATCH, 8)
    assert rig.peek(SCRATCH) == 7
    assert rig.idle()


def test_a_batch_may_go_on_in_another(rig: Rig) -> None:
    second = BATCH + 0x1FF8
    rig.poke(second, [STORE_IMM | VIRTUAL, SCRATCH, 3, BATCH_END])
    rig.batch(BATCH_START, second)
    assert rig.peek(SCRATCH) == 3
    assert rig.idle()


def test_the_ring_wraps_and_counts_it(rig: Rig) -> None:
    for seqno in range(2 * RING_BYTES // 16):
        rig.emit(STORE_INDEX, 0xC0, seqno, USER_INTERRUPT)
    assert rig.status(0x30) == 2 * RING_BYTES // 16 - 1
    assert rig[HEAD] == 2 << 21
    assert rig.idle()


def test_a_packet_may_lie_over_the_end_of_the_ring(rig: Rig) -> None:
    rig[CTL] = 0
    rig[HEAD] = RING_BYTES - 8
    rig[TAIL] = RING_BYTES - 8
    rig[CTL] = RING_BYTES - 4096 | 1
    rig.emit(STORE_INDEX, 0xC0, 5)
    assert rig.status(0x30) == 5
    assert rig.head() == 8


def test_a_spinner_stays_until_the_cpu_ends_it(rig: Rig) -> None:
    rig.batch(BATCH_START, BATCH)
    rig.emit(STORE_INDEX, 0xC0, 9)
    for _ in range(3):
        rig.wait(100)
        assert rig[ACTHD] == BATCH
        assert not rig.idle()
        assert rig.status(0x30) == 0
    assert not rig[INSTDONE] & PARSER_DONE
    rig.poke(BATCH, [BATCH_END])
    rig.wait(5)
    assert rig.status(0x30) == 9
    assert rig.idle()
    assert rig[INSTDONE] & PARSER_DONE


def test_a_spinner_that_works_is_run_at_each_tick(rig: Rig) -> None:
    rig.batch(STORE_IMM | VIRTUAL, SCRATCH, 1, BATCH_START, BATCH)
    assert rig.peek(SCRATCH) == 1
    rig.poke(SCRATCH, [0])
    rig.wait(5)
    assert rig.peek(SCRATCH) == 1


def test_a_long_batch_is_done_in_pieces(rig: Rig) -> None:
    rig.batch(*[ARB_CHECK] * 3000, BATCH_END)
    # The guest may look for a while between two of them.
    rig.wait(4)
    assert not rig.idle()
    rig.wait(1)
    assert rig.idle()


def test_a_batch_without_an_end_is_stopped_by_the_end_of_the_gtt(rig: Rig) -> None:
    rig.poke(BATCH, [0] * 16)
    rig.batch(0, 0, ARB_CHECK)
    rig.wait(50)
    assert rig[ESR] == 1 << 4
    assert rig[ACTHD] == RAM - BASE


def test_a_batch_with_a_last_address_ends_there(rig: Rig) -> None:
    rig.poke(BATCH, [0, 0, 0, 0, 0, 0, STORE_IMM | VIRTUAL, SCRATCH, 1])
    rig.emit(0x30 << 23 | 1, BATCH, BATCH + 16)
    assert rig.idle()
    assert rig.peek(SCRATCH) == 0


def test_stop_ring_ends_at_a_packet_and_reports_idle(rig: Rig) -> None:
    rig[MI_MODE] = STOP_RING << 16 | STOP_RING
    rig.emit(STORE_INDEX, 0xC0, 1)
    assert rig[MI_MODE] & 1 << 9
    assert rig.status(0x30) == 0
    rig[MI_MODE] = STOP_RING << 16
    assert rig.status(0x30) == 1


def test_a_hung_batch_is_not_idle_when_stopped_and_dropped_with_the_ring(rig: Rig) -> None:
    rig.batch(BATCH_START, BATCH)
    rig[MI_MODE] = STOP_RING << 16 | STOP_RING
    assert not rig[MI_MODE] & 1 << 9
    rig[HEAD] = rig[TAIL]
    rig[CTL] = 0
    rig[HEAD] = 0
    rig[TAIL] = 0
    assert rig.head() == 0
    assert rig[MI_MODE] & 1 << 9


def test_an_invalid_command_holds_the_ring_until_reset(rig: Rig) -> None:
    invalid = 0x3F << 23
    rig.batch(invalid)
    assert rig[IPEHR] == invalid
    assert rig[ACTHD] == BATCH
    assert rig[ESR] == 1
    rig.poke(BATCH, [BATCH_END])
    rig.emit(STORE_INDEX, 0xC0, 1)
    rig.wait(1000)
    assert rig.status(0x30) == 0
    rig.chip.config_write(0xC0, 1, 1)
    rig.chip.config_write(0xC0, 1, 0)
    assert rig[ESR] == 0
    rig.start()
    rig.emit(STORE_INDEX, 0xC0, 2)
    assert rig.status(0x30) == 2


def test_registers_are_written_by_the_ring_but_not_by_a_plain_batch(rig: Rig) -> None:
    register = 0x2580
    rig.emit(LOAD_REGISTER, register, 0xAB)
    assert rig[register] == 0xAB
    rig.batch(LOAD_REGISTER, register, 0xCD, BATCH_END, secure=False)
    assert rig[register] == 0xAB
    rig.batch(LOAD_REGISTER, register, 0xCD, BATCH_END, secure=True)
    assert rig[register] == 0xCD
    rig.emit(0x24 << 23 | 1 | VIRTUAL, register, SCRATCH)
    assert rig.peek(SCRATCH) == 0xCD


def test_a_batch_that_disables_its_ring_ends_with_it(rig: Rig) -> None:
    rig.batch(LOAD_REGISTER, CTL, 0, STORE_IMM | VIRTUAL, SCRATCH, 1, BATCH_END)
    assert rig[CTL] == 0
    assert rig.peek(SCRATCH) == 0
    assert rig[MI_MODE] & 1 << 9


@pytest.mark.parametrize(("pipe", "bit"), [(0, 1 << 3), (1, 1 << 7)])
def test_the_ring_waits_for_a_vblank(rig: Rig, pipe: int, bit: int) -> None:
    rig.emit(WAIT_FOR_EVENT | bit)
    rig.emit(STORE_INDEX, 0xC0, 4)
    rig.chip.ring.vblank(1 - pipe)
    assert rig.status(0x30) == 0
    assert rig[CTL] & 1 << 11
    rig.chip.ring.vblank(pipe)
    assert rig.status(0x30) == 4
    assert not rig[CTL] & 1 << 11


def test_a_flip_is_pending_until_the_vblank_of_its_pipe(rig: Rig) -> None:
    flip_a = 1 << 2
    rig[0x71180] = 0
    rig[0x70180] = 1 << 24
    rig.emit(WAIT_FOR_EVENT | flip_a)
    assert rig.idle()
    rig.emit(0x14 << 23 | 1, 4096, SCRATCH)
    assert rig[0x70184] == SCRATCH
    assert rig[0x20AC] & 1 << 11
    rig.emit(WAIT_FOR_EVENT | flip_a)
    rig.chip.ring.vblank(0)
    assert rig[0x20AC] & 1 << 11
    rig.chip.ring.vblank(1)
    assert not rig[0x20AC] & 1 << 11


def test_three_d_is_taken_by_its_length(rig: Rig) -> None:
    state = 0x3 << 29 | 0x1D << 24 | 0x4 << 16 | 1
    primitive = 0x3 << 29 | 0x1F << 24 | 4
    rig.batch(state, 1, 2, primitive, 1, 2, 3, 4, 5, STORE_IMM | VIRTUAL, SCRATCH, 6, BATCH_END)
    assert rig.peek(SCRATCH) == 6
    assert rig.chip.state()["undrawn"] == 2


def test_report_head_and_the_identity_of_a_noop(rig: Rig) -> None:
    rig.emit(0x07 << 23, 1 << 22 | 0x1234)
    assert rig.status(4) == 4
    assert rig[0x2094] == 0x1234


def test_a_page_without_a_pte_stops_the_streamer_and_is_reported(rig: Rig) -> None:
    rig[0x20B4] = ~(1 << 4 | 1 << 1) & 0xFFFF_FFFF
    rig.emit(BATCH_START, 0x0FFF_F000 if rig.chip.variant.name == "945g" else 0x1FFF_F000)
    assert rig[0x2024] != 0
    assert rig[ESR] == rig[0x20B0] == 1 << 4
    assert rig[IIR] & 1 << 15
    assert rig.line == [True]
    # What i915 does: EIR does not clear, so it masks the bit, and acknowledges.
    rig[0x20B0] = 1 << 4
    assert rig[0x20B0] == 1 << 4
    rig[0x20B4] = 0xFFFF_FFFF
    rig[IIR] = 1 << 15
    assert rig.line == [True, False]


def test_acthd_is_in_the_ring_when_no_batch_runs(rig: Rig) -> None:
    rig.emit(USER_INTERRUPT, USER_INTERRUPT)
    assert rig[ACTHD] == RING + 8
    assert rig[TAIL] == 8
