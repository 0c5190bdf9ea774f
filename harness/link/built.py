"""A kernel as a build leaves it on this host, told from its files.

A bisect's builder leaves a directory with a note of what is in it (built.json); by hand one
names the files.  The release is what the image itself says that it is.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.errors import UsageError
from harness.link.boot import Kernel, build_id

__all__ = ["NOTE", "elf_build_id", "from_directory", "from_files", "release_of"]

NOTE = "built.json"
# Documentation/arch/x86/boot.rst: "HdrS" at 0x202, then the protocol's version; kernel_version at
# 0x20e is where the text lies, less 0x200.
_MAGIC, _VERSION_AT, _BASE = 0x202, 0x20E, 0x200
_LONGEST = 256
# elf(5): the header's first bytes, then e_shoff, e_shentsize and e_shnum; of a section's header
# sh_type, sh_offset, sh_size; SHT_NOTE.
_ELF64 = b"\x7fELF\2\1"
_ELF, _SECTION, _NOTES = struct.Struct("<40xQ10xHH"), struct.Struct("<4xI16xQQ"), 7


class _Note(Struct, frozen=True):
    """What is read of it here; harness/bisect/kernels.py has all of it."""

    image: str = ""
    initramfs: str = ""
    builds: dict[str, str] = {}


def from_directory(directory: Path, cmdline: str = "") -> Kernel:
    """The kernel that a builder left in `directory`, its modules in lib/modules there.

    Raises UsageError where there is none.
    """
    try:
        note = msgspec.json.decode((directory / NOTE).read_bytes(), type=_Note)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"no kernel's directory: {error}",
            where=str(directory / NOTE),
            cure="as `python -m tools.kernel.commit kernel` leaves one; or --image FILE",
        ) from error
    if not note.image:
        raise UsageError(
            "only modules were built there",
            where=str(directory),
            cure="build the kernel, too: a machine boots an image",
        )
    return from_files(
        directory / note.image,
        build=note.builds.get("vmlinux", ""),
        modules=directory if (directory / "lib/modules").is_dir() else None,
        initramfs=directory / note.initramfs if note.initramfs else None,
        cmdline=cmdline,
    )


def from_files(
    image: Path,
    *,
    vmlinux: Path | None = None,
    build: str = "",
    modules: Path | None = None,
    initramfs: Path | None = None,
    cmdline: str = "",
) -> Kernel:
    """A kernel by the names of its files; `build` is its build id, where no `vmlinux` tells that.
    `modules` is what `make modules_install` was given for INSTALL_MOD_PATH, or the release's own
    directory in it.

    Raises UsageError where a file is not what it should be.
    """
    release = release_of(image)
    if vmlinux is not None:
        build = elf_build_id(vmlinux)
        if not build:
            raise UsageError(
                "has no build id",
                where=str(vmlinux),
                cure="name the vmlinux that the image was made of, as the build left it",
            )
    if modules is not None:
        modules = _modules(modules, release)
    if initramfs is not None:
        _read(initramfs, 1)
    return Kernel(image, release, build, modules, initramfs, cmdline)


def release_of(image: Path) -> str:
    """uname -r of a bzImage.  Raises UsageError where it is none."""
    head = _read(image, 1 << 16)
    if head[_MAGIC : _MAGIC + 4] == b"HdrS":
        (at,) = struct.unpack_from("<H", head, _VERSION_AT)
        text = head[_BASE + at :][:_LONGEST].split(b"\0", 1)[0].decode("ascii", "replace")
        if at and text.split():
            return text.split()[0]
    raise UsageError(
        "no bzImage", where=str(image), cure="arch/x86/boot/bzImage of the build, or a vmlinuz"
    )


def elf_build_id(path: Path) -> str:
    """The build id of a vmlinux or a module (64 bits, little endian), hexadecimal; "" where it has
    none.  By its sections: a kernel's data has whole ELF files in it, the vDSO's, with ids of their
    own.  Raises UsageError where it cannot be read."""
    head = _read(path, _ELF.size)
    if len(head) < _ELF.size or not head.startswith(_ELF64):
        return ""
    at, entry, count = _ELF.unpack(head)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number in range(count):
            if at + (number + 1) * entry > len(data):
                break  # it was cut
            kind, start, size = _SECTION.unpack_from(data, at + number * entry)
            if kind == _NOTES and (found := build_id(data[start : start + size])):
                return found
    return ""


def _modules(given: Path, release: str) -> Path:
    inside = given / "lib/modules" / release
    if inside.is_dir():
        return inside
    if given.name == release and given.is_dir():
        return given
    raise UsageError(
        f"no modules of {release}",
        where=str(given),
        cure="make modules_install INSTALL_MOD_PATH=DIR, and name DIR; or leave modules out",
    )


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(
            f"cannot read it: {error.strerror}", where=str(path), cure="name another"
        ) from error
