"""A kernel told from its files: release, build id, modules."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from harness import inventory
from harness.errors import UsageError
from harness.fleet import Fleet
from harness.link import built
from harness.tests.elf import elf

RELEASE = "6.13.0-rc1-lab"


def _image(path: Path, text: str = f"{RELEASE} (a@b) #1 SMP") -> Path:
    """What a boot loader reads of a bzImage: its header, and the text that it points to."""
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x400)
    data[0x600 : 0x600 + len(text)] = text.encode()
    path.write_bytes(data)
    return path


def _vmlinux(path: Path) -> Path:
    path.write_bytes(elf(b"\xab" * 20))
    return path


def test_an_image_says_which_release_it_is(tmp_path: Path) -> None:
    assert built.release_of(_image(tmp_path / "bzImage")) == RELEASE
    for wrong in (b"", b"MZ" + bytes(0x1000)):
        (tmp_path / "wrong").write_bytes(wrong)
        with pytest.raises(UsageError, match="no bzImage"):
            built.release_of(tmp_path / "wrong")
    with pytest.raises(UsageError, match="no bzImage"):
        built.release_of(_image(tmp_path / "empty", ""))
    with pytest.raises(UsageError, match="No such file"):
        built.release_of(tmp_path / "absent")


def test_files_by_hand(tmp_path: Path) -> None:
    image, vmlinux = _image(tmp_path / "bzImage"), _vmlinux(tmp_path / "vmlinux")
    alone = built.from_files(image, cmdline="a=b")
    assert (alone.release, alone.build_id, alone.modules) == (RELEASE, "", None)
    assert alone.cmdline == "a=b"
    inside = tmp_path / "lib/modules" / RELEASE
    inside.mkdir(parents=True)
    for given in (tmp_path, inside):
        whole = built.from_files(image, vmlinux=vmlinux, modules=given, initramfs=vmlinux)
        assert (whole.build_id, whole.modules) == ("ab" * 20, inside)
    with pytest.raises(UsageError, match=f"no modules of {RELEASE}"):
        built.from_files(image, modules=tmp_path / "lib")
    with pytest.raises(UsageError, match="no build id"):
        built.from_files(image, vmlinux=image)
    cut = tmp_path / "cut"
    cut.write_bytes(vmlinux.read_bytes()[:-100])
    with pytest.raises(UsageError, match="no build id"):
        built.from_files(image, vmlinux=cut)
    (tmp_path / "nothing").touch()
    with pytest.raises(UsageError, match="no build id"):
        built.from_files(image, vmlinux=tmp_path / "nothing")
    with pytest.raises(UsageError, match="No such file"):
        built.from_files(image, initramfs=tmp_path / "absent")


def test_what_a_builder_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel's directory"):
        built.from_directory(tmp_path)
    note = {"modules": "modules.ext4", "builds": {"amdgpu": "cd" * 20}}
    (tmp_path / built.NOTE).write_text(json.dumps(note))
    with pytest.raises(UsageError, match="only modules"):
        built.from_directory(tmp_path)
    note |= {"image": "bzImage", "builds": {"vmlinux": "ab" * 20}}
    (tmp_path / built.NOTE).write_text(json.dumps(note))
    _image(tmp_path / "bzImage")
    assert built.from_directory(tmp_path).modules is None
    (tmp_path / "lib/modules" / RELEASE).mkdir(parents=True)
    kernel = built.from_directory(tmp_path, "panic=10")
    assert (kernel.release, kernel.build_id, kernel.cmdline) == (RELEASE, "ab" * 20, "panic=10")
    assert kernel.modules == tmp_path / "lib/modules" / RELEASE


def test_a_session_is_told_at_once_that_it_cannot_boot_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    box = '[targets.{}]\ndriver = "i915"\naddress = "a"\nhost_key = "SHA256:x"\n'
    path.write_text(box.format("own") + box.format("one") + 'boot = { kind = "grub" }\n')
    listed = inventory.load(path)

    def fleet(*names: str) -> Fleet:
        return Fleet(listed, list(names), tmp_path, [], "a test", print, boot=tmp_path)

    with pytest.raises(UsageError, match="boots whatever it boots by itself"):
        fleet("one", "own")
    with pytest.raises(UsageError, match="no kernel's directory"):
        fleet("one")
    _image(tmp_path / "bzImage")
    (tmp_path / built.NOTE).write_text('{"image": "bzImage"}')
    assert fleet("one").connected() == []
