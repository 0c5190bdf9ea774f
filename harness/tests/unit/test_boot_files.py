"""A kernel's files on their way to a target and from it, and how it is told that it runs.

The target is a folder of the test's, and every command runs there as it would on one.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.link.boot import Kernel, build_id, verify
from harness.link.boot_files import Files, identity, own_cmdline
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


def _files(folder: Path, cut: int | None = None, maker: Sequence[str] | None = None) -> Files:
    return Files(cast("Ssh", Here(cut)), str(folder / "boot"), str(folder / "modules"), maker)


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


def test_a_maker_that_is_added_makes_one(tmp_path: Path, kernel: Kernel) -> None:
    """After a first try without, which found no disk."""
    names = {_files(tmp_path).put(kernel, _soon()).id}
    for text in ("one", "another"):
        files = _files(tmp_path, maker=("sh", "-c", f'echo {text} > "$1"', "make"))
        name = files.put(kernel, _soon()).id
        assert name not in names
        assert files.has_initramfs(kernel)
        assert Path(files.folder(name), "initrd.img").read_text() == f"{text}\n"
        names.add(name)


def _note(owner: bytes, kind: int, body: bytes) -> bytes:
    head = struct.pack("<III", len(owner), len(body), kind)
    return head + owner + b"\0" * (-len(owner) % 4) + body + b"\0" * (-len(body) % 4)


def test_the_running_kernel_is_told_by_its_build_id(kernel: Kernel) -> None:
    mine = bytes.fromhex("ab" * 20)
    xen = _note(b"Xen\0", 3, b"not it")
    notes = xen + _note(b"Linux\0", 0x100, b"\0" * 5) + _note(b"GNU\0", 3, mine)
    assert build_id(notes) == mine.hex()
    assert build_id(notes[:-1]) == ""
    assert build_id(b"") == ""
    verify(notes, kernel)
    with pytest.raises(TargetError, match="another kernel runs: its build id is cd"):
        verify(_note(b"GNU\0", 3, b"\xcd" * 20), kernel)
    # This host's own, if it shows them, read by the same code.
    own = Path("/sys/kernel/notes")
    if own.exists():
        assert len(build_id(own.read_bytes())) in (0, 40, 32)


def test_the_command_line_is_the_machines_own() -> None:
    booted = "BOOT_IMAGE=/vmlinuz root=UUID=1 ro quiet initrd=\\x"
    assert own_cmdline(f"{booted} console=ttyS0\n") == "root=UUID=1 ro quiet console=ttyS0"
    assert own_cmdline("root=UUID=1 tdrlab=abc panic=10 root=/dev/sdb") == "root=UUID=1"
