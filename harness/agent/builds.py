"""Which build of the kernel and of its modules runs: their build ids.

From the ELF notes that sysfs shows (kernel/ksysfs.c, notes_read; kernel/module/sysfs.c,
add_notes_attrs); a kernel linked without them has none.
"""

from __future__ import annotations

import os
import struct

__all__ = ["builds", "note"]

_GNU_BUILD_ID = 3  # NT_GNU_BUILD_ID, elf(5)
_MODULES = "/sys/module"


def note(data: bytes) -> str | None:
    """The build id among ELF notes, hexadecimal; None where there is none."""
    at = 0
    while at + 12 <= len(data):
        name, length, kind = struct.unpack_from("=III", data, at)
        start = at + 12 + (name + 3) // 4 * 4
        if kind == _GNU_BUILD_ID and data[at + 12 : at + 15] == b"GNU":
            return data[start : start + length].hex()
        at = start + (length + 3) // 4 * 4
    return None


def builds() -> dict[str, str]:
    """Of "vmlinux" and of each module that is loaded and has one."""
    found = {}
    paths = {"vmlinux": "/sys/kernel/notes"}
    try:
        names = os.listdir(_MODULES)
    except OSError:
        names = []
    for name in names:
        paths[name] = f"{_MODULES}/{name}/notes/.note.gnu.build-id"
    for name, path in paths.items():
        try:
            with open(path, "rb") as file:
                build = note(file.read())
        except OSError:  # built in, or without notes
            continue
        if build:
            found[name] = build
    return found
