"""An ELF file as a kernel's build leaves one: with a build id, and data that is not its own."""

from __future__ import annotations

import struct

__all__ = ["elf"]

_FOREIGN = b"\xcd" * 20


def elf(build: bytes) -> bytes:
    """A file whose notes have the id `build`; its data has a note like a vDSO's, with another."""
    note, foreign = (
        struct.pack("<III", 4, len(one), 3) + b"GNU\0" + one for one in (build, _FOREIGN)
    )
    # SHT_NULL, SHT_PROGBITS, SHT_NOTE: elf(5)
    sections = [(0, b""), (1, foreign), (7, note)]
    body, headers = b"", b""
    for kind, data in sections:
        headers += struct.pack("<4xI16xQQ24x", kind, 64 + len(body), len(data))
        body += data
    head = b"\x7fELF\2\1".ljust(40, b"\0") + struct.pack("<Q", 64 + len(body))
    head = head.ljust(58, b"\0") + struct.pack("<HHH", 64, len(sections), 0)
    return head + body + headers
