"""A kernel that is tried: told when it runs, and when the known-good one does; the machine is made
up, a real one boots by GRUB in harness/tests/vm/test_grub.py."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.link.boot import Kernel, Staged
from harness.live import trial
from harness.live.uplink import Uplink

GOOD, OURS = bytes.fromhex("aa" * 20), bytes.fromhex("bb" * 20)
BANNER = "[    0.000000] Linux version {} (a@b)\n[    0.100000] Command line: x\n"


def _note(build: bytes) -> bytes:
    sizes = (4, len(build), 3)
    return b"".join(size.to_bytes(4, "little") for size in sizes) + b"GNU\0" + build


class Way:
    """A boot loader that does as it is told."""

    def __init__(self, *, reverts: bool = True) -> None:
        self.reverts = reverts
        self.done: list[str] = []
        # 1: to ask for it fails; 2: to go home, too.
        self.breaks = 0

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        self.done.append("install")
        return Staged("k1", kernel)

    def once(self, staged: Staged, deadline: Deadline) -> None:
        self.done.append(f"once {staged.id}")
        if self.breaks:
            raise LabError("the link broke in a sync", where="box", cure="plug it in")

    def home(self, deadline: Deadline) -> None:
        self.done.append("home")
        if self.breaks > 1:
            raise LabError("it is still broken", where="box", cure="plug it in")

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        return []


class Link:
    """A target of which `boots` come up at a reboot: build id and command line, or an error; the
    console says `says` meanwhile."""

    def __init__(self, run: RunDir, way: Way, comes: tuple[bytes, str] | LabError) -> None:
        self.run, self._way, self._comes = run, way, comes
        limits = SimpleNamespace(boot_s=1.0, command_s=1.0)
        self.target = SimpleNamespace(name="box", limits=limits)
        self.boot_id, self._build = "old", GOOD
        self.facts: dict[str, Any] = {"cmdline": "root=x"}
        self.says: list[str] = []
        self.reset = False

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        assert (op, args["path"]) == ("read", "/sys/kernel/notes")
        return {"data": b64encode(_note(self._build)).decode()}

    def reboot(self, *, stranded: Any = None) -> None:
        self._way.done.append("reboot")
        for number, text in enumerate(self.says[:-1]):
            folder = self.run.path / f"boot-pending-{number + 1}"
            folder.mkdir()
            (folder / "console.log").write_text(text)
        if self.reset and stranded is not None:
            stranded()
        if isinstance(self._comes, LabError):
            raise self._comes
        self.boot_id = "new"
        self._build, self.facts["cmdline"] = self._comes
        if self.says:
            (self.run.boot("new") / "console.log").write_text(self.says[-1])


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "box")
    (made.boot("old") / "console.log").write_text(BANNER.format("6.1-good"))
    return made


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(image=tmp_path / "bzImage", release="6.12-ours", build_id=OURS.hex())


def _try(link: Link, way: Way, kernel: Kernel) -> None:
    trial.boot(cast("Uplink", link), way, kernel, link.reboot)


def test_one_that_comes_up_is_told_by_its_build_id_and_mark(run: RunDir, kernel: Kernel) -> None:
    way = Way()
    _try(Link(run, way, (OURS, "root=x tdrlab=k1")), way, kernel)
    assert way.done == ["install", "once k1", "reboot"]
    told = [e for e in journal.read(run.journal.path) if e["what"] == "tried"]
    assert [(e["came"], e["running"]) for e in told] == [(True, OURS.hex())]


@pytest.mark.parametrize("apart", [False, True], ids=["by itself", "after a reset"])
def test_one_that_does_not_is_told_with_its_last_words(
    run: RunDir, kernel: Kernel, apart: bool
) -> None:
    way = Way()
    link = Link(run, way, (GOOD, "root=x"))
    died = BANNER.format("6.12-ours") + "[    1.000000] Kernel panic - not syncing: no root\n"
    farewell = "[  900.000000] reboot: Restarting system\n"
    known = BANNER.format("6.1-good") + "[    2.000000] all is well\n"
    link.says = [farewell + died, known] if apart else [farewell + died + known]
    link.reset = apart
    with pytest.raises(TargetError, match="did not come up") as caught:
        _try(link, way, kernel)
    assert "the kernel 6.12-ours (k1) did not come up; the known-good one" in caught.value.what
    assert caught.value.what.endswith("\n  Kernel panic - not syncing: no root")
    assert "well" not in caught.value.what
    assert "Restarting" not in caught.value.what


def test_one_that_said_nothing_is_told_by_pstore_or_as_silent(run: RunDir, kernel: Kernel) -> None:
    way = Way()
    with pytest.raises(TargetError, match="It said nothing that reached us"):
        _try(Link(run, way, (GOOD, "root=x")), way, kernel)
    folder = run.boot("new") / "pstore-before"
    folder.mkdir()
    (folder / "dmesg-ramoops-0").write_text("Panic#1 Part1\n<0>[    1.000000] no root at all\n")
    with pytest.raises(TargetError, match="no root at all"):
        _try(Link(run, way, (GOOD, "root=x")), way, kernel)


def test_a_third_kernel_is_named(run: RunDir, kernel: Kernel) -> None:
    way = Way()
    with pytest.raises(TargetError, match="another kernel runs: its build id is cc"):
        _try(Link(run, way, (b"\xcc" * 20, "root=x")), way, kernel)


def test_the_same_build_with_another_command_line_is_another_kernel(
    run: RunDir, kernel: Kernel
) -> None:
    way = Way()
    link = Link(run, way, (OURS, "root=x"))
    link._build = OURS
    with pytest.raises(TargetError, match="did not come up"):
        _try(link, way, kernel)


@pytest.mark.parametrize("reset", [False, True])
def test_a_way_that_does_not_go_back_by_itself_is_told_to(
    run: RunDir, kernel: Kernel, reset: bool
) -> None:
    way = Way(reverts=False)
    link = Link(run, way, (OURS, "tdrlab=k1"))
    link.reset = reset
    _try(link, way, kernel)
    assert way.done == ["install", "once k1", "reboot", *["home"] * (2 if reset else 1)]
    lost = Way(reverts=False)
    with pytest.raises(LabError, match="no power"):
        _try(Link(run, lost, LabError("no power", where="box", cure="go there")), lost, kernel)
    assert lost.done[-1] == "home", "whoever switches it on gets the known-good one"


@pytest.mark.parametrize("reverts", [True, False])
@pytest.mark.parametrize("breaks", [1, 2])
def test_one_that_was_asked_for_in_part_is_asked_for_no_more(
    run: RunDir, kernel: Kernel, reverts: bool, breaks: int
) -> None:
    way = Way(reverts=reverts)
    way.breaks = breaks
    with pytest.raises(LabError, match="the link broke in a sync"):
        _try(Link(run, way, (OURS, "tdrlab=k1")), way, kernel)
    assert way.done == ["install", "once k1", "home"]
