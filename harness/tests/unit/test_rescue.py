"""How a target that stopped answering is judged, and brought back; the machine is made up."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.link.dial import Stranger, Unreachable
from harness.link.machine import Box, Sink
from harness.link.power import NoPower, Power
from harness.live import rescue, spare, uplink
from harness.live.rescue import Rescue

OLD, NEW = "old-boot", "new-boot"
PANIC = b"[    5.000000][    T1] Kernel panic - not syncing: by hand\nRebooting\n"


class Machine(Box):
    """A box whose console and buttons do as a test says."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.done: list[str] = []
        self.lives = False
        self.button = True

    def sysrq(self, key: str, deadline: Deadline) -> bool:
        if self.lives:
            self.done.append(f"sysrq {key}")
        return self.lives

    def answers(self, deadline: Deadline) -> bool:
        return self.lives

    def reset(self, deadline: Deadline) -> bool:
        self.done.append("reset")
        return self.button

    def cycle(self, deadline: Deadline) -> None:
        self.done.append("cycle")

    def down(self) -> None:
        self.done.append("down")

    @property
    def power(self) -> Power:
        return Nmi(self)


WHY = {
    "no machine": "QEMU did not start",
    "no boot": "no answer",
    "no disk": "No space left on device",
    "it died since": "killed by signal 9",
    "cut": "its streams were cut",
    "blind": "lockdep is off there, too",
}


class Twin(Machine):
    """A spare machine with a fault."""

    def __init__(self, target: Target, fault: str) -> None:
        super().__init__(target)
        self.fault = fault

    def up(self, console: Sink, deadline: Deadline, evidence: Path | None = None) -> None:
        if self.fault == "no machine":
            raise LabError("QEMU did not start", where="box", cure="see its log")
        if self.fault == "no disk":
            raise OSError(errno.ENOSPC, "No space left on device")

    def post_mortem(self) -> str:
        return "killed by signal 9" if self.fault == "it died since" else ""


class Nmi(NoPower):
    """A power switch that can do nothing but interrupt."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("box")
        self._machine = machine

    def nmi(self, deadline: Deadline) -> bool:
        self._machine.done.append("nmi")
        return True


class Agent:
    """Answers nothing but that it is there."""

    alive = True
    heard = 0.0

    def call(self, op: str, deadline: Deadline, **_: Any) -> dict[str, Any]:
        raise TargetError("no such thing", where="box", cure="none")

    def lose(self, why: str) -> None:
        self.alive = False


@pytest.fixture
def machine() -> Machine:
    return Machine(Target(driver="amdgpu", name="box", address="box.lab"))


@pytest.fixture
def script() -> list[Any]:
    """What each attempt to attach comes to: the boot that is up, an error, or both; or what the
    console says until nobody answers."""
    return [OLD]


@pytest.fixture
def link(
    machine: Machine, script: list[str | HarnessError], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Rescue:  # fmt: skip
    def attach(
        target: Target, endpoint: object, boot_for: Callable[[str], Any], **_: object
    ) -> SimpleNamespace:
        wanted = script.pop(0)
        if isinstance(wanted, bytes):
            made._console(wanted)
            raise _gone()
        if isinstance(wanted, tuple):
            boot_for(wanted[0])
            raise wanted[1]
        if isinstance(wanted, HarnessError):
            raise wanted
        boot_for(wanted)
        nothing = SimpleNamespace(absent="", cut=False)
        facts = {"pid": 7, "uname": {"release": "6.12"}}
        return SimpleNamespace(
            agent=Agent(), facts=facts, cards=[], recorder=nothing, drop=lambda: None,
            close=lambda: None, ssh=SimpleNamespace(close=lambda: None, wait_reboot=_never),
        )  # fmt: skip

    monkeypatch.setattr(uplink, "Attachment", attach)
    monkeypatch.setattr(rescue, "NMI_S", 0.0)
    monkeypatch.setattr(rescue, "QUIET_S", 0.0)
    monkeypatch.setattr("harness.live.watch.SETTLE_S", 0.0)
    made = Rescue(machine._target, RunDir.create(tmp_path, "box"), machine, print)
    made._attach(wait=True)
    return made


def _never(old: str, deadline: Deadline, hopeless: Callable[[], str]) -> str:
    raise TargetError("did not reboot", where="box", cure="cut its power")


def _gone() -> Unreachable:
    return Unreachable("no answer", where="box", cure="wait")


def _rungs(link: Rescue) -> list[str]:
    entries = journal.read(link.run.journal.path)
    return [entry["name"] for entry in entries if entry["what"] == "rung"]


def test_a_stall_is_no_death(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    machine.lives = True
    script += [_gone(), OLD]
    assert link._diagnose() == ("", " (the link broke and came back; same boot)")
    assert machine.done == ["sysrq w", "sysrq l", "sysrq d"]
    assert link.boot_id == OLD


def test_a_machine_that_answers_is_neither_dead_nor_interrupted(
    link: Rescue, machine: Machine, script: list[Any]
) -> None:
    late = LabError("collect was not answered within 20 s", where="box", cure="wait")
    script += [(OLD, late), (OLD, late), (OLD, late), (NEW, late), OLD]
    died, lab = link._diagnose()
    assert (died, lab) == ("", f" (it answers, but no agent works there: {late.what})")
    assert link._diagnose() == ("the target rebooted by itself", "")
    assert "nmi" not in machine.done


def test_a_disk_of_this_host_is_not_taken_for_the_link(link: Rescue, script: list[Any]) -> None:
    link._boot._kmsg._failed = LabError("No space left on device", where="disk", cure="free it")
    script += [OLD, OLD]
    assert link._diagnose() == ("", " (evidence is kept again; same boot)")
    assert not link._boot.failed
    assert link._diagnose() == ("", " (the link broke and came back; same boot)")


def test_a_machine_whose_process_ended_meanwhile_died(
    link: Rescue,
    machine: Machine,
    script: list[str | HarnessError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = iter(["", "QEMU ended: killed by signal 9"])
    monkeypatch.setattr(machine, "post_mortem", lambda: next(told))
    script.append(_gone())
    assert link._diagnose() == ("the target died: QEMU ended: killed by signal 9", "")
    assert machine.done == []


def test_a_boot_of_which_no_more_can_be_kept_is_ended(
    link: Rescue, script: list[str | HarnessError], monkeypatch: pytest.MonkeyPatch
) -> None:
    link._boot._console.full = True
    link._boot._console._failed = LabError("the stream passed its limit", where="console.log")
    script.append(NEW)
    link.ready()
    assert (link.boot_id, link._boot.failed, link._boot.full) == (NEW, False, False)
    assert "booting" in [entry["what"] for entry in journal.read(link.run.journal.path)]


def test_one_whose_console_alone_lives_is_asked_for_all_its_tasks_before_it_is_reset(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    machine.lives = True
    script += [_gone(), _gone()]
    died, _ = link._diagnose()
    assert died == "the target stopped answering, though its console lives (no answer)"
    assert machine.done == ["sysrq w", "sysrq l", "sysrq d", "sysrq t", "nmi"]


def test_a_silent_machine_is_dead_and_is_asked_for_its_stacks(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    script += [_gone(), NEW]
    died, lab = link._diagnose()
    assert (died, lab) == ("the target stopped answering (no answer)", "")
    assert machine.done == ["nmi"]
    link.recover()
    assert _rungs(link) == ["sysrq", "reset button"], "it heeds no sysrq"
    assert machine.done == ["nmi", "reset"]
    assert (link.boot_id, link.unfit) == (NEW, "")


def test_a_stranger_is_the_labs_error_and_nobody_resets_it(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    script.append(Stranger("host key mismatch", where="box", cure="look"))
    assert link._diagnose() == ("", " (host key mismatch)")
    assert link.unfit == "recovery failed: host key mismatch"
    link.ready()
    assert (machine.done, script) == ([], [])


def test_a_panic_is_told_and_needs_no_questions(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    link._console(PANIC)
    assert link._diagnose() == ("the kernel panicked: by hand", "")
    script += [_gone(), NEW]
    link.recover()
    assert _rungs(link) == ["reset button", "power"]
    assert machine.done == ["reset", "cycle"]
    assert link.boot_id == NEW


def test_a_panic_that_is_told_while_it_is_looked_for_needs_none_either(
    link: Rescue, machine: Machine, script: list[Any]
) -> None:
    script.append(PANIC)
    assert link._diagnose() == ("the kernel panicked: by hand", "")
    machine.lives = True
    script += [NEW, _gone(), PANIC]
    link.recover()
    assert link._diagnose() == ("the kernel panicked: by hand", "")
    assert "nmi" not in machine.done


def test_what_no_rung_brings_back_is_unfit(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    machine.button = False
    script += [_gone(), _gone()]
    link._diagnose()
    link.recover()
    assert "reset button: it has no reset button; power: no answer" in link.unfit
    told = [entry["what"] for entry in journal.read(link.run.journal.path)]
    assert told[-1] == "unfit"


def test_a_link_that_is_gone_between_tests_is_only_taken_up_again(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    link._drop()
    script.append(OLD)
    link.ready()
    link.ready()
    assert (_rungs(link), machine.done, script) == (["agent"], [], [])


def test_an_agent_that_died_between_two_tests_is_replaced(
    link: Rescue, script: list[str | HarnessError]
) -> None:
    link.agent.lose("gone")
    script.append(OLD)
    link.ready()
    assert (_rungs(link), link.agent.alive) == (["agent"], True)


def test_streams_that_were_cut_are_begun_anew_on_the_same_boot(
    link: Rescue, script: list[str | HarnessError]
) -> None:
    link._boot._kmsg._failed = LabError("full", where="disk", cure="free it")
    cut = link._boot
    script.append(OLD)
    link.ready()
    assert link._boot is not cut
    assert (link.boot_id, link._boot.path, link._boot.failed) == (OLD, cut.path, False)


def test_sysrq_is_no_cure_where_the_old_boot_answers_again(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    machine.lives = True
    script += [OLD, NEW]
    link.reboot()
    assert _rungs(link) == ["reboot", "sysrq", "reset button"]
    assert machine.done == ["sysrq s", "sysrq u", "sysrq b", "reset"]
    assert link.boot_id == NEW


def test_neither_button_nor_power_is_a_cure_where_the_old_boot_answers_again(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    script += [_gone(), OLD, OLD]
    link._diagnose()
    link.recover()
    assert machine.done == ["nmi", "reset", "cycle"]
    assert "reset button: it is still the old boot; power: it is still the old boot" in link.unfit


def test_the_reboot_itself_outlives_the_agent(
    link: Rescue, script: list[str | HarnessError], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def call(_self: Agent, op: str, _deadline: Deadline, **args: Any) -> dict[str, Any]:
        asked.append((op, args.get("argv")))
        return {}

    monkeypatch.setattr(Agent, "call", call)
    for name in ("pstore.collect", "kdump.collect", "kdump.loaded"):
        monkeypatch.setattr(f"harness.live.{name}", lambda *_: None)
    script.append(NEW)
    link.reboot()
    assert asked[:2] == [("run", ["sync"]), ("detach", ["reboot", "-f"])]


def test_a_reboot_that_does_not_come_is_made_by_other_means(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    script.append(NEW)
    link.reboot()
    assert _rungs(link) == ["reboot", "sysrq", "reset button"]
    assert link.boot_id == NEW
    machine.button = False
    script.append(_gone())
    with pytest.raises(LabError, match="cannot be rebooted"):
        link.reboot()


@pytest.mark.parametrize("fault", WHY)
def test_a_spare_that_is_of_no_use_costs_a_reboot_alone(
    link: Rescue,
    machine: Machine,
    script: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    twin = Twin(machine._target, fault)
    cut = SimpleNamespace(cut=fault == "cut")
    at = SimpleNamespace(agent=Agent(), recorder=cut, drop=lambda: twin.done.append("drop"))
    at.agent.call = lambda op, deadline, **_: {"debug_locks": 0}

    def attach(*_: object, **__: object) -> SimpleNamespace:
        if fault == "no boot":
            raise _gone()
        return at

    monkeypatch.setattr(spare, "Attachment", attach)
    link.spare = spare.Spare(twin, link.target, link.run, lambda: None)
    script += [_gone(), NEW]
    link.rearm()
    assert link.boot_id == NEW
    assert link.spare is None, "a box has none"
    assert _rungs(link)[0] == "reboot"
    (told,) = [e for e in journal.read(link.run.journal.path) if e["what"] == "spare-failed"]
    assert WHY[fault] in told["reason"]
    up = fault in ("it died since", "blind", "cut")
    assert set(twin.done) == ({"down", "drop"} if up else {"down"})


def test_a_spare_that_is_not_needed_is_left_with_the_target(
    link: Rescue, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Twin(machine._target, "")
    booting = threading.Event()

    def attach(*_: object, hopeless: Callable[[], str], **__: object) -> SimpleNamespace:
        booting.set()
        while not (why := hopeless()):
            time.sleep(0.01)
        raise LabError(why, where="box", cure="none")

    monkeypatch.setattr(spare, "Attachment", attach)
    link.spare = spare.Spare(twin, link.target, link.run, lambda: None)
    assert booting.wait(60)
    link.close()
    assert set(twin.done) == {"down"}


@pytest.mark.parametrize(
    "fault", [LabError("full", where="disk", cure="free it"), KeyboardInterrupt()]
)
def test_what_fails_on_the_way_to_the_spare_leaves_no_machine_behind(
    link: Rescue,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    twin, other = Twin(machine._target, ""), Twin(machine._target, "")
    twins = [other]
    twin.twin = lambda: twins.pop()  # type: ignore[method-assign,assignment]
    nothing = SimpleNamespace(cut=False)

    def attach(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(agent=well, recorder=nothing, drop=lambda: None, close=lambda: None)

    def adopt(*_: object, **__: object) -> None:
        raise fault

    well = Agent()
    monkeypatch.setattr(well, "call", lambda op, deadline, **_: {"debug_locks": 1})
    monkeypatch.setattr(spare, "Attachment", attach)
    monkeypatch.setattr(link, "_adopt", adopt)
    link.spare = spare.Spare(twin, link.target, link.run, lambda: None)
    with pytest.raises(type(fault)):
        link.rearm()
    assert "down" in machine.done
    link.close()
    assert "down" in twin.done
    assert "down" in other.done


def test_a_crash_kernel_is_not_interrupted(
    link: Rescue, machine: Machine, script: list[str | HarnessError]
) -> None:
    link.guards.armed["kdump"] = "a crash kernel"
    link._console(PANIC)
    link._diagnose()
    script.append(NEW)
    link.recover()
    assert (_rungs(link), machine.done) == (["its crash kernel"], [])
    # One that writes for too long is reset, and so is a machine that answers no more to a reboot.
    link.guards.armed["kdump"] = "a crash kernel"
    link._console(PANIC)
    link._diagnose()
    script += [_gone(), OLD]
    link.recover()
    assert _rungs(link)[1:] == ["its crash kernel", "reset button"]
    link.guards.armed["kdump"] = "a crash kernel"
    script.append(NEW)
    link.reboot()
    assert _rungs(link)[3:] == ["reboot", "sysrq", "reset button"]
