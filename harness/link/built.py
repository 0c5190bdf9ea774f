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
from harness.link.boot import Kernel

__all__ = ["NOTE", "from_directory", "from_files", "release_of"]

NOTE = "built.json"
# Documentation/arch/x86/boot.rst: "HdrS" at 0x202, then the protocol's version; kernel_version at
# 0x20e is where the text lies, less 0x200.
_MAGIC, _VERSION_AT, _BASE = 0x202, 0x20E, 0x200
_LONGEST = 256
# An ELF note of type NT_GNU_BUILD_ID (3), 20 bytes long, by "GNU" (elf(5)).
_BUILD_ID = struct.pack("<III", 4, 20, 3) + b"GNU\0"


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
        build_id=note.builds.get("vmlinux", ""),
        modules=directory if (directory / "lib/modules").is_dir() else None,
        initramfs=directory / note.initramfs if note.initramfs else None,
        cmdline=cmdline,
    )


def from_files(
    image: Path,
    *,
    vmlinux: Path | None = None,
    build_id: str = "",
    modules: Path | None = None,
    initramfs: Path | None = None,
    cmdline: str = "",
) -> Kernel:
    """A kernel by the names of its files; `modules` is what `make modules_install` was given for
    INSTALL_MOD_PATH, or the release's own directory in it.

    Raises UsageError where a file is not what it should be.
    """
    release = release_of(image)
    if vmlinux is not None:
        build_id = _build_id(vmlinux)
    if modules is not None:
        modules = _modules(modules, release)
    if initramfs is not None:
        _read(initramfs, 1)
    return Kernel(image, release, build_id, modules, initramfs, cmdline)


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


def _build_id(vmlinux: Path) -> str:
    if len(_read(vmlinux, 1)):
        with (
            vmlinux.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            at = data.find(_BUILD_ID)
            if at >= 0:
                return data[at + len(_BUILD_ID) : at + len(_BUILD_ID) + 20].hex()
    raise UsageError(
        "has no build id",
        where=str(vmlinux),
        cure="name the vmlinux that the image was made of, as the build left it",
    )


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(
            f"cannot read it: {error.strerror}", where=str(path), cure="name another"
        ) from error
