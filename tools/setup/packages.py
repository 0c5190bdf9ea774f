"""The system packages that set-up and the tests need, found by what they bring.

Looked for as files and commands, so that no package manager is asked while all is
there; installed by apt-get where we may, else the one command is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UsageError
from tools.setup.command import run

__all__ = ["LOOPBACK", "NEEDS", "ROOTLESS", "Need", "install", "missing"]

SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")


class Need:
    """A package and how to see that it is there: commands, or files of which any will do."""

    def __init__(self, package: str, *commands: str, files: Sequence[str] = ()) -> None:
        self.package, self.commands, self.files = package, commands, files

    def met(self, root: Path = Path("/")) -> bool:
        """Whether everything is found."""
        # Administrators' commands are not on every user's PATH.
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
        found = all(shutil.which(command, path=path) for command in self.commands)
        return found and (
            not self.files or any((root / f.lstrip("/")).exists() for f in self.files)
        )


# What the harness's tests need that start no virtual machine: a real sshd, a compiler.
LOOPBACK = (
    Need("openssh-client", "ssh", "ssh-keygen"),
    Need("openssh-server", "sshd"),
    Need("gcc", "gcc"),
    Need("libc6-dev", files=["/usr/include/stdio.h"]),
    # The uAPI headers of DRM, which the agent's ABIs are compared with.
    Need("libdrm-dev", files=["/usr/include/libdrm/amdgpu_drm.h"]),
    # Intel's decoders, which the i915 workload's batches are read back with.
    Need("intel-gpu-tools", "intel_dump_decode", "intel_error_decode"),
)

# Package names are Debian 12's.
NEEDS = (
    *LOOPBACK,
    Need("qemu-system-x86", "qemu-system-x86_64"),
    Need("qemu-utils", "qemu-img"),
    Need("mmdebstrap", "mmdebstrap"),
    Need("e2fsprogs", "mke2fs"),
    Need("fakeroot", "fakeroot"),
    Need("make", "make"),
    Need("flex", "flex"),
    Need("bison", "bison"),
    Need("bc", "bc"),
    Need("lz4", "lz4"),
    Need("cpio", "cpio"),
    Need("kmod", "depmod"),
    Need("xz-utils", "xz"),
    Need("patch", "patch"),
    Need("perl", "perl"),
    Need("libelf-dev", files=["/usr/include/libelf.h"]),
    Need("libssl-dev", files=["/usr/include/openssl/ssl.h"]),
    Need("linux-source-6.12", files=[str(SOURCE)]),
)

# What mmdebstrap needs besides to work without root: user namespaces with many users.
ROOTLESS = (Need("uidmap", "newuidmap"),)


def missing(needs: Sequence[Need], root: Path = Path("/")) -> list[str]:
    """Packages of which something is not there, in order."""
    return [need.package for need in needs if not need.met(root)]


def install(
    packages: Sequence[str],
    *,
    log: Path,
    lock: int,
    on_line: Callable[[str], object],
) -> None:
    """Install them.  Raises UsageError with the one command when we may not."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    prefix = _privilege()
    if shutil.which("apt-get") is None:
        raise UsageError(
            f"needs programs that Debian has in the packages {' '.join(packages)}",
            cure="install what corresponds to them here; no apt-get was found",
        )
    if prefix is None:
        raise UsageError(
            f"{len(packages)} system packages are missing: {' '.join(packages)}",
            cure=f"run: sudo {' '.join(command)}",
        )
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    patient = ["-o", "DPkg::Lock::Timeout=600"]
    cure = f"run it by hand: {' '.join([*prefix, *command])}"
    for words in (["apt-get", "update", *patient], [*command, *patient]):
        run([*prefix, *words], log=log, lock=lock, env=env, on_line=on_line, cure=cure)


def _privilege() -> list[str] | None:
    """How to become root without a question: [], ["sudo", "-n"], or None when we cannot."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, stdin=subprocess.DEVNULL)
    return ["sudo", "-n"] if asked.returncode == 0 else None
