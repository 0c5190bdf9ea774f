"""The ladder, the watch, and what pstore is of."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.journal import Journal
from harness.kernel import pstore
from harness.kernel.records import parse_console
from harness.link.agent import Agent
from harness.live import watch
from harness.live.ladder import Rung, climb
from harness.live.watch import Watch

BOOT = b"[    0.000000][    T0] Linux version 6.12.117-lab (a@b) #1\n"
PANIC = b"[    5.000000][    T1] Kernel panic - not syncing: by hand\n"

HALT = b"[    5.000200][    T1] ---[ end Kernel panic - not syncing: by hand ]---\n"


def _fails(deadline: Deadline) -> None:
    raise LabError("no power", where="box", cure="walk there")


def test_the_ladder_ends_at_the_first_rung_that_helps(tmp_path: Path) -> None:
    taken: list[str] = []
    told = Journal(tmp_path / "journal.jsonl")
    rungs = [
        Rung("gentle", 1, _fails),
        Rung("firm", 1, lambda deadline: taken.append("firm")),
        Rung("harsh", 1, lambda deadline: taken.append("harsh")),
    ]
    assert climb(rungs, told, print) == ""
    assert taken == ["firm"]
    whats = [(entry["what"], entry["name"]) for entry in journal.read(told.path)]
    assert whats == [
        ("rung", "gentle"),
        ("rung-failed", "gentle"),
        ("rung", "firm"),
        ("recovered", "firm"),
    ]
    assert climb(rungs[:1] * 2, told, print) == "gentle: no power; gentle: no power"


class FakeAgent:
    """Heard of when a test says so."""

    def __init__(self) -> None:
        self.alive = True
        self.heard = 0.0
        self.lost: list[str] = []

    def lose(self, why: str) -> None:
        self.alive = False
        self.lost.append(why)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> FakeAgent:
    monkeypatch.setattr(watch, "CONFIRM_S", 0.0)
    return FakeAgent()


def _watched(agent: FakeAgent, *pieces: bytes) -> Watch:
    made = Watch()
    made.over(cast("Agent", agent))
    for piece in pieces:
        made.console(piece)
    return made


def _until_lost(agent: FakeAgent) -> list[str]:
    deadline = Deadline(60)
    while agent.alive and deadline.pause(0.01):
        pass
    return agent.lost


def test_a_panic_ends_the_link(agent: FakeAgent) -> None:
    made = _watched(agent, PANIC, BOOT)
    assert _until_lost(agent) == ["the kernel panicked: by hand"]
    assert made.death is not None
    assert made.death.kind == "panic", "the boot after it says nothing new"


def test_a_boot_that_nobody_asked_for_ends_the_link(agent: FakeAgent) -> None:
    _watched(agent, BOOT)
    assert _until_lost(agent) == ["the target rebooted by itself"]


def test_an_agent_that_is_heard_of_after_the_panic_lives(agent: FakeAgent) -> None:
    agent.heard = float("inf")
    assert _watched(agent, PANIC).death is None
    assert agent.lost == []


def test_an_old_panic_that_is_printed_again_on_all_streams_is_no_panic_at_boot(
    agent: FakeAgent,
) -> None:
    agent.heard = float("inf")
    made = _watched(agent, PANIC)
    made.netconsole(PANIC)
    assert (made.death, made.hopeless()) == (None, "")


@pytest.mark.parametrize(
    ("within", "told"),
    [(float("inf"), "the kernel panicked: by hand"), (-1.0, "the target rebooted by itself")],
)
def test_a_boot_after_an_agent_that_outlived_the_panic_ends_the_link(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, within: float, told: str
) -> None:
    monkeypatch.setattr(watch, "REBOOT_S", within)
    made = _watched(agent)
    made._suspected = watch.Death("panic", "by hand"), agent.heard - watch.GRACE_S - 1
    assert made.death is None
    made.console(BOOT)
    assert _until_lost(agent) == [told]


def test_a_machine_that_comes_up_is_given_up_when_it_panics_again() -> None:
    made = Watch()
    made.over(None)
    made.console(BOOT + PANIC)
    assert made.hopeless() == ""
    made.console(BOOT + PANIC)
    assert "panics while it boots: by hand" in made.hopeless()
    made.over(None)
    assert made.hopeless() == ""
    made.console(BOOT * watch.BOOTS)
    assert "again and again" in made.hopeless()
    made.over(None)
    made.console(BOOT + PANIC + HALT)
    assert made.hopeless().endswith("and stands still: by hand"), "once is enough"


def test_a_machine_that_said_farewell_has_gone_down() -> None:
    """What its firmware does then, and for how long, nobody tells."""
    made = Watch()
    made.over(None)
    made.console(b"[    9.000000][    T1] ACPI: PM: Preparing to enter system sleep state S5\n")
    assert not made.booting
    made.console(b"[    9.000100][    T1] reboot: Restarting system\n")
    assert made.booting
    made.over(None)
    assert not made.booting


def test_a_console_is_quiet_when_nothing_came_for_long_enough() -> None:
    made, deadline = Watch(), Deadline(60)
    made.console(b"the first of many\n")
    made.until_quiet(0.2, deadline)
    assert deadline.left() < 60 - 0.2
    made._heard = float("inf")  # it never ends
    short = Deadline(0.1)
    made.until_quiet(3600.0, short)
    assert short.expired()


def test_pstore_is_of_the_boot_that_shares_its_lines() -> None:
    def said(word: str) -> bytes:
        return b"".join(
            b"[    %d.000000][    T1] %s %d\n" % (n, word.encode(), n) for n in range(9)
        )

    old, new = said("old"), said("new")
    dump = b"Panic#1 Part1\n<6>" + b"<6>".join(old.splitlines(keepends=True)[2:5]) + PANIC
    known = [("a", list(parse_console(new))), ("b", list(parse_console(old)))]
    assert pstore.owner(dump, known) == "b"
    assert pstore.owner(dump, known[:1]) == ""
    assert pstore.is_dump(dump)
    assert not pstore.is_dump(new)
    assert [record.text for record in pstore.read(dump)][-1].startswith("Kernel panic")
