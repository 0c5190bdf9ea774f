"""A test's window, where the machine under it is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.files import as_json
from harness.evidence.rundir import RunDir, Window
from harness.gpu.base import Engine
from harness.inventory import Target
from harness.link.machine import Box
from harness.live.dut import Dut
from harness.live.witness import Witness


class Broken(Box):
    """A machine whose lab part may break."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.broke = ""

    def trouble(self) -> str:
        return self.broke

    def remarks(self) -> list[str]:
        return ["it stood still"]


class Quiet(Dut):
    """A target of which every call succeeds, though it has no link."""

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        return {"failed": [], "debug_locks": 1}

    def _look_closer(self, window: Window) -> None:
        """There is no trace to look at."""

    def _mark_end(self, window: Window, word: str) -> list[dict[str, str]]:
        told = self.call("window.close")
        window.last_seq = 1
        return list(told["failed"])


@pytest.fixture
def machine() -> Broken:
    return Broken(Target(driver="i915", name="box", address="box.lab"))


@pytest.fixture
def quiet(machine: Broken, tmp_path: Path) -> Dut:
    made = Quiet(machine._target, RunDir.create(tmp_path, "box"), machine, print)
    made._boot.name("b")
    made._at = cast(Any, SimpleNamespace(recorder=SimpleNamespace(flush=lambda: None)))
    return made


class Client:
    """A client of a GPU of generation 2."""

    def device(self) -> dict[str, Any]:
        return {"generation": 2, "family": 110}


@pytest.mark.parametrize("driver", ["i915", "amdgpu"])
def test_what_may_not_come_back_is_hung_with_dangerous_alone(
    tmp_path: Path, driver: Literal["amdgpu", "i915"]
) -> None:
    target = Target(driver=driver, name="box", address="box.lab")
    run, gfx, client = RunDir.create(tmp_path, "box"), Engine("gfx", "gfx", 0), cast(Any, Client())
    careful = Quiet(target, run, Broken(target), print)
    bold = Quiet(target, run, Broken(target), print, dangerous=True)
    assert careful.refusal(client)
    assert bold.refusal(client) == ""
    assert careful.recipes(gfx) == careful.gpu.recipes(gfx)
    assert bold.recipes(gfx) == [*careful.recipes(gfx), *careful.gpu.dangerous(gfx)]


def _window() -> Window:
    return Window(test="t", boot_id="b", first_seq=0, offset=0)


def test_a_window_that_closed_well_is_asked_for_the_labs_trouble_too(
    quiet: Dut, machine: Broken
) -> None:
    window = _window()
    machine.broke = "the model of the g33 died"
    quiet.end(window)
    assert (window.trouble, window.died, window.lab_error) == (machine.broke, "", "")
    assert window.remarks == ["it stood still"]
    told = [entry for entry in journal.read(quiet.run.journal.path) if entry["what"] == "trouble"]
    assert [entry["reason"] for entry in told] == [machine.broke]


@pytest.mark.parametrize("close", [Dut.end, Dut.extend])
def test_a_sound_machine_leaves_no_trouble(
    quiet: Dut, close: Callable[[Dut, Window], None]
) -> None:
    window = _window()
    close(quiet, window)
    assert (window.trouble, window.died, window.lab_error) == ("", "", "")


def test_trouble_in_the_teardown_changes_nothing_in_the_window(quiet: Dut, machine: Broken) -> None:
    window = _window()
    quiet.end(window)
    before = as_json(window)
    machine.broke = "the model of the g33 died"
    quiet.extend(window)
    assert as_json(window) == before
    told = [entry for entry in journal.read(quiet.run.journal.path) if "trouble" in entry["what"]]
    assert [(e["what"], e["reason"]) for e in told] == [("late-trouble", machine.broke)]


def test_trouble_comes_before_a_broken_link(
    quiet: Dut, machine: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(op: str, **args: Any) -> dict[str, Any]:
        raise LabError("the link broke", where="box", cure="mend it")

    monkeypatch.setattr(quiet, "call", gone)
    monkeypatch.setattr(quiet, "_diagnose", lambda: ("the target died: QEMU ended", ""))
    machine.broke = "the model of the g33 died"
    window = _window()
    quiet.end(window)
    assert (window.trouble, window.died) == (machine.broke, "")


class Cut(Quiet):
    """A target whose link breaks, and whose autopsy is known."""

    autopsy = ("", "")

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        raise LabError("no answer", where="box", cure="wait")

    def _diagnose(self) -> tuple[str, str]:
        return self.autopsy


@pytest.mark.parametrize("autopsy", [("the kernel panicked", ""), ("", " (the link broke)")])
def test_only_a_death_in_a_teardown_changes_what_was_judged(
    machine: Broken, tmp_path: Path, autopsy: tuple[str, str]
) -> None:
    dut = Cut(machine._target, RunDir.create(tmp_path, "box"), machine, print)
    dut.autopsy = autopsy
    window = Window(test="t.py::t", boot_id="b", first_seq=1, offset=0, last_seq=2)
    dut.extend(window)
    assert (window.died, window.lab_error) == (autopsy[0], "")
    told = [e["reason"] for e in journal.read(dut.run.journal.path) if e["what"] == "late-trouble"]
    assert told == ([] if autopsy[0] else ["no answer (the link broke)"])


def test_a_window_that_a_broken_link_ended_reaches_no_further(
    machine: Broken, tmp_path: Path
) -> None:
    dut = Cut(machine._target, RunDir.create(tmp_path, "box"), machine, print)
    mark = SimpleNamespace(record=SimpleNamespace(seq=1), mono=5, trace={})
    recorder = SimpleNamespace(sync=lambda told: "", folder="trace", absent="not here")
    dut._at = cast(Any, SimpleNamespace(mark=lambda text: mark, recorder=recorder))
    dut._boot.name("b")
    window, other = (
        Window(test="t.py::t", boot_id=boot, first_seq=1, offset=0) for boot in ("b", "older")
    )
    dut.end(window)
    dut.end(other)
    assert (window.last_seq, other.last_seq) == (1, None)


def test_a_log_that_a_new_agent_read_again_has_each_record_once(tmp_path: Path) -> None:
    records = [b"6,%d,%d,-;record %d\n" % (n, n, n) for n in range(6)]
    (tmp_path / "kmsg").write_bytes(b"".join([*records[:4], *records]))
    mark = SimpleNamespace(record=SimpleNamespace(seq=4))
    connected = SimpleNamespace(
        at=SimpleNamespace(mark=lambda text: mark), _boot=SimpleNamespace(path=tmp_path)
    )
    window = SimpleNamespace(test="a", offset=0, first_seq=1)
    found = Witness.log(cast(Any, connected), cast(Any, window))
    assert [record.seq for record in found] == [1, 2, 3, 4]


def test_what_the_kernel_reports_between_two_tests_is_told(quiet: Dut) -> None:
    log = [
        "4,3,100,-;BUG: sleeping function called from invalid context at the.c:1",
        "4,7,500,-;lab: end t::first",
        "4,8,600,-;WARNING: CPU: 0 PID: 7 at drivers/gpu/drm/scheduler/sched_main.c:99 f+0x1/0x2",
        "4,9,700,-;lab: start t::second",
    ]
    quiet._boot.kmsg("".join(f"{line}\n" for line in log).encode())
    quiet._closed = quiet.boot_id, 7
    window = Window(test="t::second", boot_id=quiet.boot_id, first_seq=9, offset=0)
    quiet.tell_between(window)
    (told,) = [e for e in journal.read(quiet.run.journal.path) if e["what"] == "between"]
    assert told["reason"].startswith("WARNING")
    quiet.tell_between(Window(test="t::second", boot_id="another", first_seq=9, offset=0))
    assert len([e for e in journal.read(quiet.run.journal.path) if e["what"] == "between"]) == 1
