"""`lab boot`: what it refuses before it touches a machine, and what it tells."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness import ways
from harness.cli import main
from harness.errors import LabError
from harness.inventory import Target
from harness.lab import commands_boot
from harness.link.boot import Kernel
from harness.tests.unit.test_built import RELEASE, _image, _vmlinux

BOX = '[targets.box]\ndriver = "i915"\naddress = "box1.lab"\nhost_key = "SHA256:x"\n'


class Dut:
    """A machine that boots whatever it is given."""

    boots: list[Kernel | None]
    done: list[str]
    sticks = False
    reaches = True
    recovers = True

    def __init__(self, target: Target, *_: object) -> None:
        self.unfit = ""
        self.target, self.at, self.boot_id = target, SimpleNamespace(ssh=None), "0123456789"
        self.facts: dict[str, Any] = {
            "uname": {"release": "6.1.0-own", "version": "#1 SMP"},
            "builds": {"vmlinux": "aa" * 20},
            "cmdline": "root=x",
        }

    def connect(self) -> None:
        self.done.append("connect")
        if not self.reaches:
            raise LabError("nobody answers", where="box", cure="go there")

    def close(self) -> None: ...

    def recover(self) -> None:
        self.done.append("recover")
        self.unfit = "" if self.recovers else "recovery failed: no power"

    def lodge(self, kernel: Kernel) -> None:
        self.boots.append(kernel)
        self.facts["uname"]["release"] = kernel.release
        self.facts["cmdline"] = "root=x tdrlab=k1"

    def reboot(self) -> None:
        self.done.append("reboot")
        self.boots.append(None)
        if self.sticks:
            self.facts["cmdline"] = "root=x tdrlab=k1"


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> list[Kernel | None]:
    @contextlib.contextmanager
    def hold(target: Target, *_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(target=target, now=lambda: target)

    def way(target: Target, ssh: object) -> SimpleNamespace:
        reverts = not isinstance(target.boot, ways.PxeBoot)
        return SimpleNamespace(home=lambda deadline: Dut.done.append("home"), reverts=reverts)

    monkeypatch.setattr(Dut, "boots", [], raising=False)
    monkeypatch.setattr(Dut, "done", [], raising=False)
    monkeypatch.setattr(commands_boot, "Dut", Dut)
    monkeypatch.setattr(commands_boot, "hold", hold)
    monkeypatch.setattr(commands_boot, "boot_for", way)
    return Dut.boots


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "targets.toml").write_text(BOX + 'boot = { kind = "grub" }\n')
    _image(tmp_path / "bzImage")
    _vmlinux(tmp_path / "vmlinux")
    return tmp_path


def _lab(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["--inventory", str(directory / "targets.toml"), "boot", "box", *words]
    )


def test_what_came_up_is_told(directory: Path, boots: list[Kernel | None]) -> None:
    image = ["--image", str(directory / "bzImage")]
    done = _lab(directory, *image, "--cmdline", "a=b")
    assert done.exit_code == 0, done.output
    assert f"box: {RELEASE} #1 SMP, build id {'aa' * 20}, boot 01234567\n" in done.output
    assert "told by tdrlab=k1 on its command line alone" in done.output
    assert "its own kernel runs after the next boot" in done.output
    whole = _lab(directory, *image, "--vmlinux", str(directory / "vmlinux"))
    assert "alone" not in whole.output
    given = [kernel for kernel in boots if kernel is not None]
    assert [(one.cmdline, one.build_id) for one in given] == [("a=b", ""), ("", "ab" * 20)]
    (evidence, _) = sorted((directory / "runs/boots").iterdir())
    assert (evidence / "run.json").exists()


def test_its_own_kernel_again(
    directory: Path, boots: list[Kernel | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _lab(directory, "--own")
    assert (done.exit_code, boots) == (0, [None]), done.output
    assert Dut.done == ["connect", "home", "reboot"]
    assert "box: 6.1.0-own #1 SMP" in done.output
    monkeypatch.setattr(Dut, "sticks", True)
    stuck = _lab(directory, "--own")
    assert stuck.exit_code == 4
    assert "still boots a kernel of ours (k1)" in stuck.output


@pytest.fixture
def pxe(directory: Path) -> None:
    """It boots by network, which forgets nothing by itself."""
    way = f'boot = {{ kind = "pxe", directory = "{directory}/tftp", mac = "52:54:00:12:34:56" }}\n'
    (directory / "targets.toml").write_text(BOX + way)


@pytest.mark.usefixtures("pxe")
def test_the_network_is_told_before_the_box_is_reached(
    directory: Path, boots: list[Kernel | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _lab(directory, "--own")
    assert (done.exit_code, Dut.done) == (0, ["home", "connect", "reboot"]), done.output
    # A kernel that does not come up is booted again and again until then.
    Dut.done.clear()
    monkeypatch.setattr(Dut, "reaches", False)
    done = _lab(directory, "--own")
    assert (done.exit_code, Dut.done) == (0, ["home", "connect", "recover"]), done.output
    assert "box: 6.1.0-own #1 SMP" in done.output
    monkeypatch.setattr(Dut, "recovers", False)
    done = _lab(directory, "--own")
    assert done.exit_code == 3
    assert "recovery failed: no power" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "it is one of them"),
        (["--own", "--image", "bzImage"], "it is one of them"),
        (["."], "no kernel's directory"),
        ([".", "--vmlinux", "vmlinux"], "DIRECTORY names its files itself"),
        (["--image", "vmlinux"], "no bzImage"),
        (["--image", "bzImage", "--modules", "."], f"no modules of {RELEASE}"),
    ],
)
def test_what_is_no_kernel_is_refused(
    directory: Path, boots: list[Kernel | None], monkeypatch: pytest.MonkeyPatch,
    words: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(directory)
    done = _lab(directory, *words)
    assert (done.exit_code, boots) == (2, []), done.output
    assert said in done.output


def test_a_target_without_a_way_is_refused_before_it_is_reached(
    directory: Path, boots: list[Kernel | None]
) -> None:
    (directory / "targets.toml").write_text(BOX)
    done = _lab(directory, "--own")
    assert (done.exit_code, boots) == (2, []), done.output
    assert "boots whatever it boots by itself" in done.output
