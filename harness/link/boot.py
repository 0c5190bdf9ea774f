"""Which kernel a target boots: one that is installed beside its own, and taken once.

A strategy puts it there, has the next boot take it, and leaves the boot after that
to the known-good one; so a kernel that does not come up needs a power cycle, no more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.deadline import Deadline
from harness.errors import TargetError

__all__ = ["Boot", "Kernel", "Staged", "build_id", "verify"]

# NT_GNU_BUILD_ID of the owner "GNU": include/uapi/linux/elf.h, binutils' documentation.
_BUILD_ID = 3


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel as a build leaves it, on this host."""

    image: Path
    """bzImage, or what else its boot loader takes."""
    release: str
    """uname -r."""
    build_id: str
    """Of its vmlinux, hexadecimal; "" where nobody knows it."""
    modules: Path | None = None
    """What becomes /lib/modules/`release`; None where all is built in."""
    initramfs: Path | None = None
    cmdline: str = ""


@dataclass(frozen=True, slots=True)
class Staged:
    """A kernel that lies on the target, ready to be booted."""

    id: str
    """Its name there: short, unique, fit for file names."""
    kernel: Kernel


class Boot(Protocol):
    """A way to have a target boot a kernel of ours.

    All methods raise LabError for the link and the lab's servers, TargetError for what the
    target lacks, UsageError for a kernel that this way cannot boot.
    """

    reverts: bool
    """Whether the boot after `once`'s is the known-good kernel's by itself; else `home` must be
    called, which then needs nothing of the machine."""

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        """Put it there beside what is there.  Again is nothing: the same kernel, the same id."""

    def once(self, staged: Staged, deadline: Deadline) -> None:
        """The next boot, and that alone, is `staged`; who calls reboots."""

    def home(self, deadline: Deadline) -> None:
        """The next boot is the known-good kernel, whatever was asked before."""

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        """Remove all that we installed but the newest `keep`; their ids."""


def build_id(notes: bytes) -> str:
    """The build id in /sys/kernel/notes (ELF notes in this machine's byte order, of x86: little
    endian), hexadecimal; "" where there is none."""
    return next((body.hex() for kind, body in _notes(notes) if kind == _BUILD_ID), "")


def verify(notes: bytes, kernel: Kernel) -> None:
    """That /sys/kernel/notes is `kernel`'s.  Raises TargetError where another one runs."""
    running = build_id(notes)
    if kernel.build_id not in ("", running):
        raise TargetError(
            f"another kernel runs: its build id is {running or 'unknown'}, that of"
            f" {kernel.release} is {kernel.build_id}",
            where="/sys/kernel/notes",
            cure="see the boot loader's lines on the console; CONFIG_SYSFS=y shows the notes",
        )


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of each note of the owner "GNU"."""
    at = 0
    while at + 12 <= len(data):
        owner, length, kind = struct.unpack_from("<III", data, at)
        body = at + 12 + (owner + 3 & ~3)
        if data[at + 12 : at + 12 + owner] == b"GNU\0" and body + length <= len(data):
            yield kind, data[body : body + length]
        at = body + (length + 3 & ~3)
