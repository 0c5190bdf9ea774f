"""A kernel of ours over a session's boots: asked for, not asked for, and one that comes up no more.
The machine is made up; a real one is in harness/tests/vm/test_grub.py."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness import inventory, ways
from harness.deadline import Deadline
from harness.errors import LabError, TargetError, UsageError
from harness.evidence.rundir import RunDir
from harness.fleet import Fleet
from harness.inventory import Target
from harness.link.boot import Kernel, Staged
from harness.link.machine import Box
from harness.live import tenant
from harness.live.tenant import Tenant
from harness.live.witness import Witness
from harness.plugin.session import pytest_terminal_summary
from harness.plugin.stash import FLEET

OWN, OURS = "aa" * 20, "bb" * 20


class Rig:
    """A machine and its boot loader: a kernel that is asked for is taken once."""

    reverts = True

    def __init__(self) -> None:
        # Boots a kernel of ours whatever it is asked for.
        self.sticks = False
        self.boots, self.done = 0, list[str]()
        self.asked, self.works, self.running = False, True, False
        self.ill = False

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        if self.ill:
            raise LabError("its disk does not answer", where="box")
        return Staged("k1", kernel)

    def once(self, staged: Staged, deadline: Deadline) -> None:
        self.asked = True

    def home(self, deadline: Deadline) -> None:
        self.done.append("home")
        self.asked = False

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        return []

    def boot(self) -> None:
        self.boots, self.ill = self.boots + 1, False
        self.running, self.asked = (self.asked and self.works) or self.sticks, False

    def facts(self) -> dict[str, Any]:
        build, words = (OURS, "root=x tdrlab=k1") if self.running else (OWN, "root=x")
        return {"cmdline": words, "builds": {"vmlinux": build}, "uname": {"release": "6"}}


class Lodging(Tenant):
    """Answers for the machine of `rig`."""

    rig: Rig

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        build = bytes.fromhex(self.facts["builds"]["vmlinux"])
        note = b"".join(n.to_bytes(4, "little") for n in (4, 20, 3)) + b"GNU\0" + build
        return {"data": b64encode(note).decode()}


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig()

    def attach(self: Lodging, *, wait: bool, seconds: float = 0.0) -> None:
        at = SimpleNamespace(facts=made.facts(), ssh=None, close=lambda: None)
        self._at = at  # type: ignore[assignment]
        self._boot.name(f"b{made.boots}")
        self.run.update(kernel=self.facts)

    def reboot(self: Lodging, *, stranded: Any = None) -> None:
        made.done.append("reboot")
        made.boot()
        self._new_boot()
        self._attach(wait=True)

    def ready(self: Lodging) -> None:
        if self._at is None:
            made.done.append("power")
            made.boot()
            self._new_boot()
            self._attach(wait=True)

    monkeypatch.setattr(Witness, "_attach", attach)
    monkeypatch.setattr(Witness, "reboot", reboot)
    monkeypatch.setattr(Witness, "ready", ready)
    monkeypatch.setattr(tenant, "boot_for", lambda target, ssh: made)
    return made


@pytest.fixture
def link(rig: Rig, tmp_path: Path) -> Lodging:
    target = Target(driver="i915", name="box", address="box.lab", boot=ways.GrubBoot())
    made = Lodging(target, RunDir.create(tmp_path, "box"), Box(target), print)
    made.rig = rig
    made._attach(wait=True)
    return made


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(image=tmp_path / "bzImage", release="6.12-ours", build_id=OURS)


def _tested(link: Lodging) -> str:
    """The build of the kernel that the run says it was about."""
    told: str = link.run.facts()["kernel"]["builds"]["vmlinux"]
    return told


def test_without_a_kernel_of_ours_all_is_as_ever(link: Lodging, rig: Rig) -> None:
    link.reboot()
    link.ready()
    assert rig.done == ["reboot"]
    assert _tested(link) == OWN


def test_every_boot_that_is_asked_for_is_ours(link: Lodging, rig: Rig, kernel: Kernel) -> None:
    link.lodge(kernel)
    link.ready()
    assert (rig.done, rig.running) == (["reboot"], True)
    link.rearm()
    assert (rig.done, rig.running) == (["reboot", "reboot"], True)
    assert _tested(link) == OURS


def test_no_test_is_begun_on_what_a_power_cycle_brought(
    link: Lodging, rig: Rig, kernel: Kernel
) -> None:
    link.lodge(kernel)
    link._at = None
    Witness.ready(link)
    assert not rig.running
    assert _tested(link) == OURS, "what brought it back to life was not tested"
    link.ready()
    assert rig.done == ["reboot", "power", "reboot"]
    assert rig.running


def test_one_too_ill_to_be_told_is_rebooted_first(link: Lodging, rig: Rig, kernel: Kernel) -> None:
    link.lodge(kernel)
    rig.ill = True
    link.rearm()
    assert (rig.done, rig.running) == (["reboot"] * 3, True)


def test_one_that_comes_up_no_more_leaves_it_unfit(link: Lodging, rig: Rig, kernel: Kernel) -> None:
    link.lodge(kernel)
    rig.works = False
    with pytest.raises(TargetError, match="did not come up; the known-good one runs again"):
        link.rearm()
    link.ready()
    assert "did not come up" in link.unfit
    boots = rig.boots
    link.ready()
    assert rig.boots == boots, "it is not tried for ever"


@pytest.fixture
def fleet(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A session's, without a kernel of ours, on the box of `rig`."""

    def hold(target: Target, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(target=target, now=lambda: target, release=lambda: None)

    def made(target: Target, run: RunDir, *_: object, **__: object) -> Lodging:
        return Lodging(target, run, Box(target), print)

    monkeypatch.setattr("harness.fleet.hold", hold)
    monkeypatch.setattr("harness.fleet.Dut", made)
    monkeypatch.setattr(Lodging, "connect", lambda self: self._attach(wait=True))
    path = tmp_path / "targets.toml"
    path.write_text(
        '[targets.box]\ndriver = "i915"\naddress = "box.lab"\nhost_key = "SHA256:x"\n'
        'boot = { kind = "grub" }\n'
    )
    return Fleet(inventory.load(path), ["box"], tmp_path / "runs", [], "a test", print)


@pytest.mark.parametrize("kind", ["grub", "as-is"])
def test_what_an_earlier_session_left_is_not_what_this_one_tests(
    fleet: Fleet, rig: Rig, kind: str
) -> None:
    rig.running = True
    if kind == "as-is":
        bare = msgspec.structs.replace(fleet.targets["box"], boot=ways.AsIsBoot())
        fleet.targets["box"] = bare
    link = cast("Lodging", fleet.dut("box"))
    assert rig.done == [*(["home"] if kind == "grub" else []), "reboot"]
    assert (rig.running, _tested(link)) == (False, OWN)
    link.rearm()
    assert _tested(link) == OWN, "one session, one kernel"


def test_a_run_says_which_kernel_it_was_given(
    fleet: Fleet, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.dut("box")
    assert fleet.runs["box"].facts()["boot"] == ""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.link.built.from_directory", lambda _: kernel)
    listed = inventory.load(tmp_path / "targets.toml")
    given = Fleet(listed, ["box"], tmp_path / "runs", [], "a test", print, boot=Path("there"))
    given.dut("box")
    assert given.runs["box"].facts()["boot"] == str(tmp_path / "there")


def test_a_kernel_of_ours_that_stays_is_refused(fleet: Fleet, rig: Rig) -> None:
    rig.running = rig.sticks = True
    with pytest.raises(LabError, match=r"still boots a kernel of ours \(k1\)") as caught:
        fleet.dut("box")
    assert "--boot=DIR" in caught.value.cure
    assert isinstance(fleet.broken()["box"], LabError)


def test_its_own_kernel_is_left_alone(fleet: Fleet, rig: Rig) -> None:
    fleet.dut("box")
    assert rig.done == []


@pytest.mark.parametrize("given", [None, Path("/there")])
def test_a_session_says_how_to_get_the_own_kernel_back(
    fleet: Fleet, rig: Rig, given: Path | None
) -> None:
    fleet.dut("box")
    said: list[str] = []
    stash = pytest.Stash()
    stash[FLEET] = fleet
    config = SimpleNamespace(stash=stash, getoption={"--boot": given}.get)
    reporter = SimpleNamespace(section=said.append, line=said.append)
    pytest_terminal_summary(reporter, cast("pytest.Config", config))
    told = [line for line in said if line.endswith("lab boot box --own")]
    assert len(told) == (given is not None), said


def test_a_target_that_boots_as_it_is_is_refused(
    link: Lodging, rig: Rig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    target = Target(driver="i915", name="box", address="box.lab")
    link.target = target
    with pytest.raises(UsageError, match="boots whatever it boots by itself"):
        link.lodge(kernel)
