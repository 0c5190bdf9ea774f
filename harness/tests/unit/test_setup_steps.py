"""Set-up's steps: missing packages, SSH keys, and skipping what is unchanged."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from tools.setup import packages
from tools.setup.cache import Cache
from tools.setup.keys import ensure_keys
from tools.setup.packages import Need
from tools.setup.progress import Report
from tools.setup.steps import Setup


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(Cache(tmp_path / "cache"), Report(quiet=True), None)


def test_what_is_missing_is_named_by_package(tmp_path: Path) -> None:
    (tmp_path / "usr/include").mkdir(parents=True)
    (tmp_path / "usr/include/there.h").write_text("")
    needs = (
        Need("sh-package", "sh"),
        Need("tool-package", "surely-no-such-tool"),
        Need("there-dev", files=["/usr/include/there.h"]),
        Need("absent-dev", files=["/usr/include/absent.h", "/usr/include/nor-this.h"]),
    )
    assert packages.missing(needs, tmp_path) == ["tool-package", "absent-dev"]


def test_without_rights_the_one_exact_command_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.setup.packages._privilege", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    with pytest.raises(UsageError) as caught:
        packages.install(["one", "two"], log=tmp_path / "log", lock=0, on_line=print)
    assert caught.value.cure == ("run: sudo apt-get install -y --no-install-recommends one two")
    assert not (tmp_path / "log").exists(), "nothing was run"


def test_a_package_that_installs_but_brings_nothing_is_an_error(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(packages, "install", lambda names, **_: asked.extend(names))
    with pytest.raises(LabError, match="still not found: odd-package"):
        setup.packages((Need("odd-package", "surely-no-such-tool"),))
    assert asked == ["odd-package"]


def test_keys_are_made_once_and_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    with Cache(tmp_path).lock("keys", print) as lock:
        first = ensure_keys(directory, log=tmp_path / "log", lock=lock)
        directory.chmod(0o755)
        first.private.chmod(0o644)
        second = ensure_keys(directory, log=tmp_path / "log", lock=lock)
    assert first == second
    assert first.host.startswith("ssh-ed25519 AAAA")
    assert first.host != first.client
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.private.stat().st_mode) == 0o600


def test_keys_cut_off_half_way_are_made_whole(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    with Cache(tmp_path).lock("keys", print) as lock:
        ensure_keys(directory, log=tmp_path / "log", lock=lock)
        (directory / "host.pub").unlink()
        (tmp_path / "keys.part").mkdir()
        again = ensure_keys(directory, log=tmp_path / "log", lock=lock)
    assert again.host == " ".join((directory / "host.pub").read_text().split()[:2])


def test_a_step_runs_once_for_a_key_and_anew_for_another(setup: Setup) -> None:
    made: list[str] = []

    def make(name: str) -> Callable[[Path, Path, int, Callable[[str], None]], None]:
        def fill(out: Path, log: Path, lock: int, on_line: Callable[[str], None]) -> None:
            made.append(name)
            (out / "product").write_text(name)

        return fill

    for key in ("a" * 64, "a" * 64, "b" * 64, "a" * 64):
        product = setup._product("step", partial(str, key), "making", make(key[0]))
        assert (product / "product").read_text() == key[0]
    assert made == ["a", "b"]
    assert setup.did == ["step", "step"]


def test_an_interrupted_step_is_run_again(setup: Setup) -> None:
    def dies(out: Path, log: Path, lock: int, on_line: Callable[[str], None]) -> None:
        (out / "half").write_text("")
        raise KeyboardInterrupt

    def works(out: Path, log: Path, lock: int, on_line: Callable[[str], None]) -> None:
        assert not (out / "half").exists()
        (out / "whole").write_text("")

    with pytest.raises(KeyboardInterrupt):
        setup._product("step", lambda: "k" * 64, "making", dies)
    product = setup._product("step", lambda: "k" * 64, "making", works)
    assert [path.name for path in product.iterdir()] == ["whole"]


def test_what_was_edited_while_it_was_built_is_not_kept(setup: Setup) -> None:
    keys = ["a" * 64]

    def edited(out: Path, log: Path, lock: int, on_line: Callable[[str], None]) -> None:
        (out / "product").write_text("of which sources?")
        keys.append("b" * 64)

    with pytest.raises(LabError, match="changed while it was built"):
        setup._product("step", lambda: keys[-1], "making", edited)
    assert not setup.cache.product("step", "a" * 64).exists()


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.task("kernel", "building") as task:
        task.detail("1 of 2")
        task.note("a [note] that is no markup")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "setup: kernel:    building"
    assert lines[1] == "setup: kernel:    a [note] that is no markup"
    assert lines[2].startswith("setup: kernel:    done in ")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the script refuses")
def test_lab_knows_which_commands_need_the_virtual_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    path = Path(__file__).parents[3] / "tools" / "lab"
    spec = spec_from_loader("tools_lab", SourceFileLoader("tools_lab", str(path)))
    assert spec is not None
    assert spec.loader is not None
    lab = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(lab)
    targets = tmp_path / "targets.toml"
    targets.write_text('[targets.v]\nvm = { gpu = "x" }\n[targets.r]\naddress = "r"\n')
    monkeypatch.setenv("LAB_TARGETS", str(targets))
    assert lab.setup_for("run", ["run"]) == []
    assert lab.setup_for("run", ["run", "--target", "r"]) is None
    assert lab.setup_for("run", ["run", "--target", "r", "--target=v"]) == []
    assert lab.setup_for("run", ["run", "--target=unknown"]) is None
    assert lab.setup_for("test", ["test"]) == []
    assert lab.setup_for("test", ["test", "--fast"]) == ["--loopback-only"]
    assert lab.setup_for("targets", ["targets"]) is None
    assert lab.command_of(["--inventory", "f", "run", "--target", "v"]) == (
        "run",
        ["--target", "v"],
    )
    assert lab.command_of(["--inventory=f", "test"]) == ("test", [])
    assert lab.command_of(["--help"]) == ("", [])
