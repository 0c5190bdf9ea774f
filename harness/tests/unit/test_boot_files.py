"""Modules on their way to a target and from it: wherever that breaks off, they stay ours.

The target is a folder of the test's, and every command runs there as it would on one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.boot import Kernel
from harness.link.boot_files import Files, identity
from harness.link.ssh import Ssh

RELEASE = "6.12.0-lab"


class Here:
    """Runs commands on this host, and breaks at one of those that change something."""

    endpoint = SimpleNamespace(where="box")

    def __init__(self, cut: int | None = None) -> None:
        self._left = cut

    def put(self, data: bytes, path: str, mode: int, deadline: Deadline) -> None:
        Path(path).write_bytes(data)

    def run(
        self, argv: Sequence[str], deadline: Deadline, *, root: bool = False, check: bool = False
    ) -> SimpleNamespace:
        words = list(argv)
        if self._left is not None and words[0] in ("rm", "mkdir", "install", "mv", "tar"):
            self._left -= 1
            if self._left < 0:
                if words[:2] == ["rm", "-rf"]:
                    # In whatever order it goes: what says whose it is may go first.
                    Path(words[-1], ".tdrlab").unlink(missing_ok=True)
                raise LabError("the link broke", where="box", cure="plug it in")
        if words == ["sync"]:
            return SimpleNamespace(ok=True, stdout=b"")
        done = subprocess.run(words, capture_output=True)
        assert not check or done.returncode == 0, (words, done.stderr)
        return SimpleNamespace(ok=done.returncode == 0, stdout=done.stdout)


def _soon() -> Deadline:
    return Deadline(60.0)


def _files(folder: Path, cut: int | None = None) -> Files:
    return Files(cast("Ssh", Here(cut)), str(folder / "boot"), str(folder / "modules"))


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    modules = tmp_path / "build" / RELEASE
    modules.mkdir(parents=True)
    (modules / "modules.dep").touch()
    (modules / "amdgpu.ko").write_text("driver")
    (tmp_path / "build/bzImage").write_text(str(tmp_path))  # no other test's
    return Kernel(tmp_path / "build/bzImage", RELEASE, "ab" * 20, modules)


def test_modules_that_came_in_part_are_put_there_anew(tmp_path: Path, kernel: Kernel) -> None:
    """In place of another kernel's of the same release: those have to go first."""
    whole, cut = False, 0
    while not whole:
        folder = tmp_path / f"{cut}"
        _files(folder).put(replace(kernel, cmdline="another"), _soon(), image=False)
        try:
            _files(folder, cut).put(kernel, _soon(), image=False)
            whole = True
        except LabError:
            cut += 1
        staged = _files(folder).put(kernel, _soon(), image=False)
        there = folder / "modules" / RELEASE
        assert (there / ".tdrlab").read_text() == f"{staged.id}\n"
        assert (there / "amdgpu.ko").read_text() == "driver"
        assert [path.name for path in (folder / "modules").iterdir()] == [RELEASE]
    assert cut >= 9, "it was cut in each of its steps"


def test_modules_that_went_in_part_stay_ours(tmp_path: Path, kernel: Kernel) -> None:
    for cut in range(4):
        name = _files(tmp_path).put(kernel, _soon(), image=False).id
        with pytest.raises(LabError, match="the link broke"):
            _files(tmp_path, cut).prune(0, _soon())
        assert _files(tmp_path).put(kernel, _soon(), image=False).id == name == identity(kernel)
        assert (tmp_path / "modules" / RELEASE / "amdgpu.ko").exists()
