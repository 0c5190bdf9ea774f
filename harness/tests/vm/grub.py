"""A machine that boots from its own disk by GRUB, as a box in a rack does: made here, of the
virtual target's root, started by hand, reached as a box.

GRUB lies on a disk of its own, since the lab's kernel knows no partitions.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ways
from harness.deadline import Deadline
from harness.inventory import Limits, Target
from harness.link.kept import Kept
from harness.link.power_qemu import QemuPower
from harness.link.virtual import Manifest

__all__ = ["disks", "running"]

MODULES = Path("/usr/lib/grub/i386-pc")
TOOLS = ("grub-editenv", "grub-probe", "grub-mkrelpath")
LIBRARY = Path("/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1")
# What GRUB's own grub.cfg loads, and what it does with next_entry and custom.cfg: as
# grub-mkconfig(8) writes it, with the known-good kernel for an entry.
PARTS = "biosdisk ext2 linux normal loadenv test configfile search search_fs_file serial terminal"
WORDS = (
    "console=ttyS0,115200 ignore_loglevel panic=10 root=/dev/vda rw net.ifnames=0"
    " ip=10.0.2.15::10.0.2.2:255.255.255.0:box:eth0:off"
)
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
  linux /boot/vmlinuz-good {WORDS}
}}
if [ -f $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
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
    """GRUB's disk, and the root with the kernel in /boot.  Skips where GRUB is not installed."""
    for tool in ("grub-mkimage", "debugfs", *TOOLS):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: apt-get install grub-common e2fsprogs")
    if not (MODULES / "boot.img").exists():
        pytest.skip("no GRUB for a BIOS here: apt-get install grub-pc-bin")
    early, core = directory / "early.cfg", directory / "core.img"
    early.write_text(EARLY)
    _run("grub-mkimage", "-O", "i386-pc", "-d", str(MODULES), "-p", "(hd1)/boot/grub",
         "-c", str(early), "-o", str(core), *PARTS.split())  # fmt: skip
    loader = directory / "grub.raw"
    loader.write_bytes((MODULES / "boot.img").read_bytes()[:_SECTOR] + core.read_bytes())
    with loader.open("r+b") as file:
        file.truncate(4 << 20)
    root = directory / "root.raw"
    _run("cp", "--sparse=always", made.root, str(root))
    (directory / "grub.cfg").write_text(CONFIG)
    _run("grub-editenv", str(directory / "grubenv"), "create")
    files = {
        "/boot/grub/grub.cfg": directory / "grub.cfg",
        "/boot/grub/grubenv": directory / "grubenv",
        "/boot/vmlinuz-good": Path(made.kernel),
        f"/usr/lib/x86_64-linux-gnu/{LIBRARY.name}": LIBRARY,
        **{f"/usr/bin/{tool}": Path(shutil.which(tool) or "") for tool in TOOLS},
    }
    lines = ["mkdir /boot/grub"]
    for path, source in files.items():
        lines += [f"rm {path}", f"write {source} {path}", f"sif {path} mode 0100755"]
    script = directory / "debugfs.txt"
    script.write_text("\n".join(lines) + "\n")
    _run("debugfs", "-w", "-f", str(script), str(root))
    return loader, root


@contextlib.contextmanager
def running(made: Manifest, directory: Path) -> Iterator[Target]:
    """The machine, on, as a target that is reached like any box: console and QMP by sockets."""
    loader, root = disks(made, directory)
    console, monitor = directory / "console", directory / "qmp"
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
        "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max",
        "-smp", "2", "-m", "768",
        "-drive", f"if=none,id=root,format=raw,cache=unsafe,file={root}",
        "-device", "virtio-blk-pci,drive=root,addr=04.0,bootindex=2",
        "-drive", f"if=none,id=mod,format=raw,readonly=on,file={made.modules}",
        "-device", "virtio-blk-pci,drive=mod,addr=05.0",
        "-drive", f"if=none,id=grub,format=raw,readonly=on,file={loader}",
        "-device", "virtio-blk-pci,drive=grub,addr=09.0,bootindex=1",
        "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22",
        "-device", "virtio-net-pci,netdev=net,addr=06.0,romfile=",
        "-object", "rng-random,id=rng,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng,addr=07.0",
        "-chardev", f"socket,id=serial,path={console},server=on,wait=off",
        "-serial", "chardev:serial",
        "-qmp", f"unix:{monitor},server=on,wait=off",
    ]  # fmt: skip
    machine = Kept(argv, fds=[], stderr=directory / "qemu.stderr")
    try:
        power = ways.QemuPower(socket=str(monitor))
        yield Target(
            driver="amdgpu",
            name="grub-box",
            address="127.0.0.1",
            port=_port(power, machine, directory),
            key=made.key,
            host_key=made.host_key,
            console=ways.SocketConsole(path=str(console)),
            power=power,
            boot=ways.GrubBoot(),
            limits=Limits(boot_s=300.0, command_s=60.0),
        )
    finally:
        machine.end()
        machine.forget()


def _port(spec: ways.QemuPower, machine: Kept, directory: Path) -> int:
    """Which one QEMU took, once its monitor answers."""
    deadline = Deadline(60)
    while not Path(spec.socket).exists():
        assert machine.alive(), (directory / "qemu.stderr").read_text()
        assert deadline.pause(0.05), "QEMU made no monitor"
    with QemuPower("grub-box", spec)._monitor(deadline) as qmp:
        said = qmp.human("info usernet", deadline)
    found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", said)
    assert found, said
    return int(found[1])


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (argv, done.stderr)


def vmlinux_build_id(path: Path) -> str:
    """From an ELF file's note section, as `readelf -n` shows it."""
    done = subprocess.run(["readelf", "-n", str(path)], capture_output=True, text=True, check=True)
    found = re.search(r"Build ID: ([0-9a-f]+)", done.stdout)
    assert found, done.stdout
    return found[1]
