"""An ailing target: the gentlest way that helps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.journal import Journal
from harness.inventory import Target
from harness.live import healing
from harness.live.dut import Dut
from harness.live.health import Ailment

STUCK = Ailment("task", "kworker/0:1 (pid 7) sleeps uninterruptibly")
WEDGED = Ailment("gpu", "wedged")
OOPS = Ailment("machine", "the kernel has oopsed (taint D)")


class Patient:
    """A Dut as far as healing knows one."""

    def __init__(self, path: Path, *ailing: Ailment) -> None:
        self.target = Target(driver="amdgpu", name="box", address="box.lab")
        self.run = SimpleNamespace(journal=Journal(path / "journal.jsonl"))
        self.ailing = ailing
        self.unfit = ""
        self.reboots = 0
        self.looks: list[dict[str, Any]] = []
        self.say = print

    def health(self) -> dict[str, Any]:
        return self.looks.pop(0)

    def reboot(self) -> None:
        self.reboots += 1
        if self.reboots > 1:
            raise LabError("no way", where="box", cure="go there")

    def give_up(self, why: str) -> None:
        self.unfit = why

    def rungs(self) -> list[tuple[str, str]]:
        entries = journal.read(self.run.journal.path)
        return [(e["what"], e["name"]) for e in entries if "name" in e]


def _heal(patient: Patient) -> Patient:
    healing.heal(cast("Dut", patient))
    return patient


def test_a_task_that_moves_again_costs_no_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "_LOOK_S", 0.0)
    patient = Patient(tmp_path, STUCK)
    patient.looks = [{"stuck": [{"pid": 7, "comm": "kworker/0:1"}]}, {"stuck": []}]
    _heal(patient)
    assert (patient.reboots, patient.unfit, patient.ailing) == (0, "", ())
    assert patient.rungs() == [("rung", "second look"), ("recovered", "second look")]


def test_a_task_that_sleeps_on_costs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "_MOVE_S", 0.0)
    patient = Patient(tmp_path, STUCK)
    patient.looks = [{"stuck": [{"pid": 7, "comm": "kworker/0:1"}]}] * 9
    assert _heal(patient).reboots == 1


def test_an_oopsed_kernel_is_rebooted_at_once_and_given_up_when_that_fails(tmp_path: Path) -> None:
    patient = Patient(tmp_path, OOPS, WEDGED)
    assert _heal(patient).rungs() == [("rung", "reboot"), ("recovered", "reboot")]
    patient.ailing = (OOPS,)
    assert _heal(patient).unfit == "reboot: no way"


def test_a_gpu_is_tried_then_bound_anew_then_rebooted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LabError("it stands still", where="box", cure="reset it")

    monkeypatch.setattr(healing, "_canary", broken)
    monkeypatch.setattr(healing, "_rebind", lambda dut, deadline: None)
    patient = _heal(Patient(tmp_path, WEDGED))
    names = [name for what, name in patient.rungs() if what == "rung"]
    assert names == ["canary", "driver rebind", "reboot"]
    assert (patient.reboots, patient.unfit) == (1, "")
