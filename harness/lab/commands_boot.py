"""`lab boot`: a kernel of yours on a box, once; or the box's own again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError, TargetError, UsageError
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.lab.holds import hold
from harness.link import built
from harness.link.boot import Kernel
from harness.link.boot_files import mark_of
from harness.link.boots import boot_for, bootable
from harness.link.machine import Machine, machine_for
from harness.link.ssh import Ssh
from harness.live.dut import Dut

__all__ = ["COMMANDS"]

# Below the runs: nobody who goes on with the last one is to meet these.
_FOLDER = "boots"

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True)
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)


@click.command("boot")
@click.argument("name")
@click.argument("directory", type=_DIRECTORY, required=False)
@click.option("--image", type=_FILE, help="bzImage or vmlinuz, instead of DIRECTORY.")
@click.option("--vmlinux", type=_FILE, help="What it was made of: tells the build id.")
@click.option("--modules", type=_DIRECTORY, help="As `make modules_install INSTALL_MOD_PATH=DIR`.")
@click.option("--initramfs", type=_FILE)
@click.option("--cmdline", default="", metavar="WORDS", help="After the machine's own.")
@click.option("--own", is_flag=True, help="Boot the machine's own kernel again.")
@click.pass_context
def boot_command(
    ctx: click.Context,
    name: str,
    directory: Path | None,
    image: Path | None,
    vmlinux: Path | None,
    modules: Path | None,
    initramfs: Path | None,
    cmdline: str,
    own: bool,
) -> None:
    """Boot a kernel on a box once, and tell what came up.

    It is that of DIRECTORY, as a bisect's builder leaves one, or --image.  Modules and initramfs
    are put there with it, beside the box's own.  One that does not come up costs a power cycle;
    then the box's own runs again, as it does after the next boot.
    """
    if sum((own, image is not None, directory is not None)) != 1:
        raise UsageError(
            "it is one of them: DIRECTORY, --image FILE, --own", cure="lab boot --help"
        )
    listed = inventory.load(ctx.obj or inventory.default_path())
    target = listed.get(name)
    bootable(target)
    kernel: Kernel | None = None
    if image is not None:
        kernel = built.from_files(
            image, vmlinux=vmlinux, modules=modules, initramfs=initramfs, cmdline=cmdline
        )
    elif directory is not None:
        if vmlinux or modules or initramfs:
            raise UsageError("DIRECTORY names its files itself", cure="or give --image")
        kernel = built.from_directory(directory, cmdline)
    for line in _boot(target, kernel, listed.runs / _FOLDER):
        click.echo(line)


def _boot(target: Target, kernel: Kernel | None, runs: Path) -> list[str]:
    """Boot `kernel`, or its own; what is to be said of it."""
    command = f"lab boot {target.name}"
    with hold(target, command, say=_say) as held:
        target = held.target
        run = RunDir.create(runs, target.name)
        run.update(target=target.public(), command=command)
        _say(f"{target.name}: evidence {run.path}")
        machine = machine_for(target, held.now)
        dut = Dut(target, run, machine, _say)
        try:
            if kernel is None:
                _go_home(dut, machine)
            else:
                dut.connect()
                dut.lodge(kernel)
            return list(_told(dut, kernel))
        finally:
            dut.close()
            run.close()


def _go_home(dut: Dut, machine: Machine) -> None:
    """Boot its own kernel, whatever runs or does not come up."""
    target = dut.target
    way = boot_for(target, Ssh(machine.endpoint()))
    if way.reverts:
        dut.connect()
        boot_for(target, dut.at.ssh).home(Deadline(target.limits.command_s))
        dut.reboot()
        return
    # First: it may boot, for ever, one that cannot be reached.  This needs nothing of it.
    way.home(Deadline(target.limits.command_s))
    try:
        dut.connect()
    except (LabError, TargetError) as error:
        _say(f"{target.name}: {error.what}")
        dut.recover()
        if dut.unfit:
            raise LabError(
                dut.unfit,
                where=target.name,
                cure="switch it off and on: it boots its own kernel then",
            ) from error
    else:
        dut.reboot()


def _told(dut: Dut, kernel: Kernel | None) -> Iterator[str]:
    uname, build = dut.facts["uname"], dut.facts["builds"].get("vmlinux", "")
    name = f"{dut.target.name}: {uname['release']} {uname['version']}"
    yield f"{name}, build id {build or 'not told'}, boot {dut.boot_id[:8]}"
    mark = mark_of(dut.facts["cmdline"])
    if kernel is None and mark:
        raise TargetError(
            f"still boots a kernel of ours ({mark})",
            where=dut.target.name,
            cure="see its boot loader: which entry is the default?",
        )
    if kernel is not None:
        if not kernel.build_id:
            yield f"told by tdrlab={mark} on its command line alone: --vmlinux tells the build id"
        yield f"its own kernel runs after the next boot: lab boot {dut.target.name} --own"


def _say(line: str) -> None:
    click.echo(line, err=True)


COMMANDS = (boot_command,)
"""What `lab` gains."""
