"""A kernel by network: files in a directory of this host that a TFTP or HTTP server shows.

For a machine whose firmware always asks the network first.  Its own configuration
there says "boot from your disk" but between `once` and `home`: this way does not fall
back by itself, so `home` follows as soon as the machine has come up, or has not.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.evidence.files import write_bytes
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import IMAGE, INITRAMFS, PREFIX, Files
from harness.link.ssh import Ssh

__all__ = ["PxeBoot"]

# What an iPXE script makes something of within a command; PXELINUX's is one line.
_UNSAFE = re.compile(r"[\n\r]|\$\{|(?:^|\s)(?:&&|\|\|)(?:\s|$)")


class PxeBoot:
    """By iPXE (where `url` says how the machine sees the directory) or PXELINUX."""

    reverts = False

    def __init__(self, ssh: Ssh, spec: ways.PxeBoot) -> None:
        self._spec = spec
        self._mac = spec.mac.replace(":", "-")
        self._directory = Path(spec.directory).expanduser()
        # Modules alone go to the machine itself, and a note of what they belong to.
        self._files = Files(ssh, spec.notes, spec.modules)

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        if _UNSAFE.search(kernel.cmdline):
            raise UsageError(
                f"a boot by network cannot be told this command line: {kernel.cmdline!r}",
                where=self._files.ssh.endpoint.where,
                cure="no newlines, no ${, no && or || of its own",
            )
        staged = self._files.put(kernel, deadline, image=False)
        folder = self._folder(staged.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _put(kernel.image, folder / IMAGE)
            if kernel.initramfs is not None:
                _put(kernel.initramfs, folder / INITRAMFS)
        except OSError as error:
            raise self._failed(error) from error
        return staged

    def once(self, staged: Staged, deadline: Deadline) -> None:
        words = self._files.cmdline(staged.id, staged.kernel, deadline)
        base, label = self._folder(staged.id).name, f"{PREFIX}{staged.id}"
        initramfs = staged.kernel.initramfs is not None
        if self._spec.url is not None:
            url = f"{self._spec.url.rstrip('/')}/{base}"
            initrd = f"initrd {url}/{INITRAMFS}\n" if initramfs else ""
            named = f"initrd={INITRAMFS} " if initramfs else ""
            text = f"#!ipxe\nkernel {url}/{IMAGE} {named}{words}\n{initrd}boot\n"
        else:
            initrd = f"  INITRD /{base}/{INITRAMFS}\n" if initramfs else ""
            head = f"DEFAULT {label}\nLABEL {label}\n  KERNEL /{base}/{IMAGE}\n"
            text = f"{head}{initrd}  APPEND {words}\n"
        self._write(text)

    def home(self, deadline: Deadline) -> None:
        if self._spec.url is not None:
            # Back to the firmware, which goes on to what is next in its order.
            self._write("#!ipxe\nexit\n")
        else:
            self._write("DEFAULT local\nLABEL local\n  LOCALBOOT 0\n")

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        removed = self._files.prune(keep, deadline)
        for name in removed:
            shutil.rmtree(self._folder(name), ignore_errors=True)
        return removed

    @property
    def config(self) -> Path:
        """The machine's own configuration: PXELINUX looks there by itself, iPXE where its
        autoexec or DHCP says `chain ${net0/mac:hexhyp}.ipxe`."""
        if self._spec.url is not None:
            return self._directory / f"{self._mac}.ipxe"
        # 01: Ethernet's ARP type (PXELINUX's documentation)
        return self._directory / "pxelinux.cfg" / f"01-{self._mac}"

    def _folder(self, name: str) -> Path:
        """This machine's alone: others that share the directory keep and remove their own."""
        return self._directory / f"{PREFIX}{self._mac}-{name}"

    def _write(self, text: str) -> None:
        try:
            self.config.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.config, text.encode())
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> LabError:
        return LabError(
            f"cannot put a kernel into the network's boot directory: {error.strerror}",
            where=str(self._directory),
            cure="make it, writable for you; see boot.directory in targets.toml",
        )


def _put(source: Path, path: Path) -> None:
    """Have `path` hold what `source` does; what holds it already is left, as a machine may be
    fetching it."""
    data = source.read_bytes()
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
