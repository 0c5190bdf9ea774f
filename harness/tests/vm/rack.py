"""A machine that boots by firmware and a boot loader of its own, as a box in a rack does: made of
the virtual target's root, started by hand, reached as a box.

What it boots from lies on a disk of its own, beside a root that has no partitions.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import ways
from harness.deadline import Deadline
from harness.evidence.rundir import RunDir
from harness.inventory import Limits, Target
from harness.lab.reservation import Reservation
from harness.link.kept import Kept
from harness.link.machine import machine_for
from harness.link.power_qemu import QemuPower
from harness.link.virtual import Manifest
from harness.live.dut import Dut

__all__ = [
    "WORDS",
    "connected",
    "do",
    "need",
    "root",
    "running",
    "soon",
    "toml",
    "vmlinux_build_id",
]

WORDS = (
    "console=ttyS0,115200 ignore_loglevel panic=10 root=/dev/vda rw net.ifnames=0"
    " ip=10.0.2.15::10.0.2.2:255.255.255.0:box:eth0:off"
)
"""The known-good kernel's command line."""


def need(path: Path, package: str) -> None:
    """Skip where a file of an optional Debian package is not there."""
    if not path.exists():
        pytest.skip(f"no {path} here: apt-get install {package}")


def root(made: Manifest, directory: Path, files: Mapping[str, Path]) -> Path:
    """A root disk with `files` in it, executable, by their paths there."""
    disk = directory / "root.raw"
    do("cp", "--sparse=always", made.root, str(disk))
    lines = [f"mkdir {parent}" for parent in _parents(files)]
    for path, source in files.items():
        lines += [f"rm {path}", f"write {source} {path}", f"sif {path} mode 0100755"]
    script = directory / "debugfs.txt"
    script.write_text("\n".join(lines) + "\n")
    do("debugfs", "-w", "-f", str(script), str(disk))
    return disk


@contextlib.contextmanager
def running(
    made: Manifest,
    directory: Path,
    name: str,
    disks: tuple[Path, Path],
    boot: ways.BootWay,
    *,
    argv: tuple[str, ...] = (),
    net: str = "",
    card: str = "romfile=",
) -> Iterator[Target]:
    """The machine, on, as a target that is reached like any box: console and QMP by sockets.

    `disks` are the root and what it boots from; `argv`, `net` and `card` go to QEMU, the latter
    two of its network.
    """
    console, monitor = directory / "console", directory / "qmp"
    base, loader = disks
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
        "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max",
        "-smp", "2", "-m", "768",
        "-drive", f"if=none,id=root,format=raw,cache=unsafe,file={base}",
        "-device", "virtio-blk-pci,drive=root,addr=04.0,bootindex=3",
        "-drive", f"if=none,id=mod,format=raw,readonly=on,file={made.modules}",
        "-device", "virtio-blk-pci,drive=mod,addr=05.0",
        "-drive", f"if=none,id=loader,format=raw,cache=unsafe,file={loader}",
        "-device", "virtio-blk-pci,drive=loader,addr=09.0,bootindex=2",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:0-:22{net}",
        "-device", f"virtio-net-pci,netdev=net,addr=06.0,{card}",
        "-object", "rng-random,id=rng,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng,addr=07.0",
        "-chardev", f"socket,id=serial,path={console},server=on,wait=off",
        "-serial", "chardev:serial",
        "-qmp", f"unix:{monitor},server=on,wait=off",
        *argv,
    ]  # fmt: skip
    machine = Kept(words, fds=[], stderr=directory / "qemu.stderr")
    try:
        power = ways.QemuPower(socket=str(monitor))
        yield Target(
            driver="amdgpu",
            name=name,
            address="127.0.0.1",
            port=_port(power, machine, directory),
            key=made.key,
            host_key=made.host_key,
            console=ways.SocketConsole(path=str(console)),
            power=power,
            boot=boot,
            limits=Limits(boot_s=300.0, command_s=60.0),
        )
    finally:
        machine.end()
        machine.forget()


@contextlib.contextmanager
def connected(target: Target, directory: Path) -> Iterator[Dut]:
    """A link to it."""
    with Reservation.take(target.name, "a test"):
        link = Dut(target, RunDir.create(directory, target.name), machine_for(target), print)
        try:
            link.connect()
            yield link
        finally:
            link.close()


def toml(target: Target, path: Path, boot: str) -> Path:
    """A target list with `target`, its `boot` as an inline table's inside."""
    assert isinstance(target.console, ways.SocketConsole)
    assert isinstance(target.power, ways.QemuPower)
    path.write_text(
        f'[targets.{target.name}]\ndriver = "{target.driver}"\naddress = "{target.address}"\n'
        f'port = {target.port}\nkey = "{target.key}"\nhost_key = "{target.host_key}"\n'
        f'console = {{ kind = "socket", path = "{target.console.path}" }}\n'
        f'power = {{ kind = "qemu", socket = "{target.power.socket}" }}\n'
        f"boot = {{ {boot} }}\n"
        f"limits = {{ boot_s = {target.limits.boot_s}, command_s = {target.limits.command_s} }}\n"
    )
    return path


def vmlinux_build_id(path: Path) -> str:
    """From an ELF file's note section, as `readelf -n` shows it."""
    found = re.search(r"Build ID: ([0-9a-f]+)", do("readelf", "-n", str(path)))
    assert found
    return found[1]


def do(*argv: str) -> str:
    """A command of this host's; it must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def soon() -> Deadline:
    """For what takes a moment."""
    return Deadline(120)


def _parents(files: Mapping[str, Path]) -> list[str]:
    """Of files below /opt and /boot: what else the tests put there has its directory."""
    folders = {str(Path(path).parent) for path in files}
    return sorted(folder for folder in folders if re.match("/(opt|boot)/", folder))


def _port(spec: ways.QemuPower, machine: Kept, directory: Path) -> int:
    """Which one QEMU took, once its monitor answers."""
    deadline = Deadline(60)
    while not Path(spec.socket).exists():
        assert machine.alive(), (directory / "qemu.stderr").read_text()
        assert deadline.pause(0.05), "QEMU made no monitor"
    with QemuPower("box", spec)._monitor(deadline) as qmp:
        said = qmp.human("info usernet", deadline)
    found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", said)
    assert found, said
    return int(found[1])
