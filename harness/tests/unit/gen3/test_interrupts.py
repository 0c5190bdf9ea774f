"""The interrupt registers and the line, and the faults that bend it."""

from __future__ import annotations

import pytest

from tools.gen3.faults import TABLE, Faults
from tools.gen3.interrupts import IER, IIR, IMR, ISR, MASTER_ERROR, USER, Interrupts
from tools.gen3.registers import Registers


class Wired:
    """The registers with the line's history."""

    def __init__(self) -> None:
        self.history: list[bool] = []
        self.registers = Registers()
        self.faults = Faults()
        self.interrupts = Interrupts(self.registers, self.history.append, self.faults)
        self.registers.write(IER, 4, USER | MASTER_ERROR)
        self.registers.write(IMR, 4, ~(USER | MASTER_ERROR) & 0xFFFF_FFFF)


@pytest.fixture
def wired() -> Wired:
    return Wired()


def test_an_event_raises_the_line_until_its_acknowledge(wired: Wired) -> None:
    wired.interrupts.pulse(USER)
    assert wired.registers.read(IIR, 4) == USER
    wired.registers.write(IIR, 4, USER)
    assert wired.registers.read(IIR, 4) == 0
    assert wired.history == [True, False]


def test_a_masked_event_is_lost(wired: Wired) -> None:
    wired.registers.write(IMR, 4, 0xFFFF_FFFF)
    wired.interrupts.pulse(USER)
    wired.registers.write(IMR, 4, 0)
    assert wired.registers.read(IIR, 4) == 0
    assert wired.history == []


def test_a_disabled_event_is_seen_but_keeps_the_line_down(wired: Wired) -> None:
    wired.registers.write(IER, 4, 0)
    wired.interrupts.pulse(USER)
    assert wired.registers.read(IIR, 4) == USER
    assert wired.history == []
    wired.registers.write(IER, 4, USER)
    assert wired.history == [True]


def test_a_source_that_stays_is_latched_again(wired: Wired) -> None:
    wired.interrupts.level(MASTER_ERROR, True)
    wired.registers.write(IIR, 4, MASTER_ERROR)
    assert wired.registers.read(IIR, 4) == MASTER_ERROR
    assert wired.registers.read(ISR, 4) == MASTER_ERROR
    wired.interrupts.level(MASTER_ERROR, False)
    wired.registers.write(IIR, 4, MASTER_ERROR)
    assert wired.registers.read(IIR, 4) == 0
    assert wired.history == [True, False]


def test_a_source_that_stays_is_latched_when_unmasked(wired: Wired) -> None:
    wired.registers.write(IMR, 4, 0xFFFF_FFFF)
    wired.interrupts.level(MASTER_ERROR, True)
    assert wired.history == []
    wired.registers.write(IMR, 4, 0)
    assert wired.history == [True]


def test_reset_drops_the_line(wired: Wired) -> None:
    wired.interrupts.pulse(USER)
    wired.interrupts.reset()
    assert wired.history == [True, False]
    assert wired.registers.read(IMR, 4) == 0xFFFF_FFFF


def test_a_lost_interrupt_is_pending_without_the_line(wired: Wired) -> None:
    wired.faults.set("irq", "lost")
    wired.interrupts.pulse(USER)
    assert wired.registers.read(IIR, 4) == USER
    assert wired.history == []
    wired.faults.set("irq", "ok")
    assert wired.history == [True]


def test_a_stuck_interrupt_outlives_its_acknowledge(wired: Wired) -> None:
    wired.faults.set("irq", "stuck")
    assert wired.history == []
    wired.interrupts.pulse(USER)
    wired.registers.write(IIR, 4, USER)
    assert wired.history == [True]
    wired.faults.reset()
    assert wired.history == [True, False]


def test_every_fault_starts_off_and_says_what_it_does() -> None:
    shown = Faults().table()
    assert [row["name"] for row in shown] == [fault.name for fault in TABLE]
    assert {row["value"] for row in shown} == {"ok", "off"}
    assert all(row["effect"] for row in shown)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("resets", "never", "no fault 'resets'; there are reset_ack"),
        ("reset_ack", "late", "ok | late:MS | never"),
        ("reset_ack", "late:x", "no value"),
        ("edid", "", "no value ''"),
    ],
)
def test_a_wrong_fault_is_refused(name: str, value: str, message: str) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        faults.set(name, value)
    assert faults.reset_ack == "ok"


def test_once_strikes_once() -> None:
    faults = Faults()
    faults.set("ring_stuck", "once")
    assert [faults.take("ring_stuck"), faults.take("ring_stuck")] == [True, False]
    faults.set("ring_stuck", "always")
    assert [faults.take("ring_stuck"), faults.take("ring_stuck")] == [True, True]


@pytest.mark.parametrize(("value", "delay"), [("ok", 0), ("late:20", 20_000_000), ("never", None)])
def test_the_delay_of_a_reset(value: str, delay: int | None) -> None:
    faults = Faults()
    faults.set("reset_ack", value)
    assert faults.reset_delay() == delay
