"""GRUB on a disk of its own, since the lab's kernel has no drivers for what GRUB is installed on;
its configuration and the kernels lie in the root's /boot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.link.virtual import Manifest
from harness.tests.vm import rack

__all__ = ["disks"]

MODULES = Path("/usr/lib/grub/i386-pc")
TOOLS = ("grub-editenv", "grub-probe", "grub-mkrelpath")
LIBRARY = Path("/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1")
# What GRUB's own grub.cfg loads, and what it does with next_entry and custom.cfg: as
# grub-mkconfig(8) writes it, with the known-good kernel for an entry.
PARTS = "biosdisk ext2 linux normal loadenv test configfile search search_fs_file serial terminal"
CONFIG = f"""\
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${{next_entry}}" ]; then
  set default="${{next_entry}}"
  set next_entry=
  save_env next_entry
  set boot_once=true
else
  set default="good"
fi
set timeout=0
menuentry 'known good' --id good {{
  search --no-floppy --file --set=root /boot/vmlinuz-good
  linux /boot/vmlinuz-good {rack.WORDS}
}}
if [ -f $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
# The root is the disk with the higher boot index.
EARLY = """\
serial --unit=0 --speed=115200
terminal_output serial
set root=(hd1)
set prefix=(hd1)/boot/grub
normal
"""
# A core image begins in the second sector; in the first, GRUB's code leaves this to a partition
# table (GRUB's manual, "Images").
_SECTOR = 512


def disks(made: Manifest, directory: Path) -> tuple[Path, Path]:
    """The root with the kernel in /boot, and GRUB's disk.  Skips where GRUB is not installed."""
    for tool in ("grub-mkimage", "debugfs", *TOOLS):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: apt-get install grub-common e2fsprogs")
    rack.need(MODULES / "boot.img", "grub-pc-bin")
    early, core = directory / "early.cfg", directory / "core.img"
    early.write_text(EARLY)
    rack.do("grub-mkimage", "-O", "i386-pc", "-d", str(MODULES), "-p", "(hd1)/boot/grub",
            "-c", str(early), "-o", str(core), *PARTS.split())  # fmt: skip
    loader = directory / "grub.raw"
    loader.write_bytes((MODULES / "boot.img").read_bytes()[:_SECTOR] + core.read_bytes())
    with loader.open("r+b") as file:
        file.truncate(4 << 20)
    (directory / "grub.cfg").write_text(CONFIG)
    rack.do("grub-editenv", str(directory / "grubenv"), "create")
    files = {
        "/boot/grub/grub.cfg": directory / "grub.cfg",
        "/boot/grub/grubenv": directory / "grubenv",
        "/boot/vmlinuz-good": Path(made.kernel),
        f"/usr/lib/x86_64-linux-gnu/{LIBRARY.name}": LIBRARY,
        **{f"/usr/bin/{tool}": Path(shutil.which(tool) or "") for tool in TOOLS},
    }
    return rack.root(made, directory, files), loader
