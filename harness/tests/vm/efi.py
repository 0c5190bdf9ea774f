"""An EFI system partition with systemd-boot and a known-good kernel, and the firmware to boot it.

The kernel must be one with an EFI stub; bootctl of this host runs on the machine with the
libraries that it has here.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.link.virtual import Manifest
from harness.tests.vm import rack

__all__ = ["disks", "firmware"]

CODE, VARS = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
TOOLS = {"bootctl": "systemd-boot", "mcopy": "mtools", "mkfs.vfat": "dosfstools",
         "sfdisk": "fdisk", "debugfs": "e2fsprogs"}  # fmt: skip
ENTRY = f"title known good\nlinux /vmlinuz-good\noptions {rack.WORDS}\n"
# Where the C library is the machine's own; its loader would take no other.
_OWN = re.compile(r"(ld-linux|libc|libm)\b")
_MOUNTS = """\
efivarfs /sys/firmware/efi/efivars efivarfs nosuid,nodev,noexec 0 0
/dev/vdc1 /boot vfat umask=0077 0 0
"""
_START, _MIB, _SIZE = 1 << 20, 1 << 20, 64


def disks(made: Manifest, directory: Path, settings: str) -> tuple[Path, Path]:
    """The root, and the disk with the ESP, whose loader.conf says `settings`."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: apt-get install {package}")
    rack.need(LOADER, "systemd-boot-efi")
    rack.need(CODE, "ovmf")
    if Path(made.kernel).read_bytes()[:2] != b"MZ":
        pytest.skip("the lab's kernel has no EFI stub: ./tools/lab setup")
    (directory / "loader.conf").write_text(settings)
    (directory / "good.conf").write_text(ENTRY)
    fat, disk = directory / "esp.fat", directory / "esp.raw"
    with fat.open("wb") as file:
        file.truncate((_SIZE - 2) * _MIB)
    rack.do("mkfs.vfat", "-F", "32", str(fat))
    for folder in ("EFI", "EFI/BOOT", "EFI/systemd", "loader", "loader/entries"):
        rack.do("mmd", "-i", str(fat), f"::{folder}")
    for source, path in (
        (LOADER, "EFI/BOOT/BOOTX64.EFI"),
        (LOADER, "EFI/systemd/systemd-bootx64.efi"),
        (directory / "loader.conf", "loader/loader.conf"),
        (directory / "good.conf", "loader/entries/good.conf"),
        (Path(made.kernel), "vmlinuz-good"),
    ):
        rack.do("mcopy", "-i", str(fat), str(source), f"::{path}")
    with disk.open("wb") as file:
        file.truncate(_SIZE * _MIB)
    table = directory / "table"
    table.write_text(f"label: gpt\nstart={_START // 512}, size={(_SIZE - 2) * 2048}, type=uefi\n")
    rack.do("sh", "-c", 'sfdisk -q "$1" < "$2"', "sh", str(disk), str(table))
    with disk.open("r+b") as file:
        file.seek(_START)
        file.write(fat.read_bytes())
    return rack.root(made, directory, _files(made, directory)), disk


def firmware(directory: Path) -> tuple[str, ...]:
    """QEMU's arguments: the code, and variables of the machine's own."""
    kept = directory / "vars.fd"
    shutil.copyfile(VARS, kept)
    return (
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={CODE}",
        "-drive", f"if=pflash,unit=1,format=raw,file={kept}",
    )  # fmt: skip


def _files(made: Manifest, directory: Path) -> dict[str, Path]:
    bootctl = Path(shutil.which("bootctl") or "")
    libraries = re.findall(r"=> (/\S+)", rack.do("ldd", str(bootctl)))
    script, fstab = directory / "bootctl", directory / "fstab"
    script.write_text('#!/bin/sh\nLD_LIBRARY_PATH=/opt/bootctl exec /opt/bootctl/bootctl "$@"\n')
    fstab.write_text(rack.do("debugfs", "-R", "cat /etc/fstab", made.root) + _MOUNTS)
    return {
        "/opt/bootctl/bootctl": bootctl,
        "/usr/bin/bootctl": script,
        "/etc/fstab": fstab,
        **{
            f"/opt/bootctl/{Path(path).name}": Path(path)
            for path in libraries
            if not _OWN.match(Path(path).name)
        },
    }
