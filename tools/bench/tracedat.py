"""A trace directory as the file that trace-cmd reads: the very same pages in another wrapping.

Format: trace-cmd.dat.v6(5).
"""

from __future__ import annotations

import struct
from pathlib import Path

from harness.fence.trace import Trace

__all__ = ["write"]


def write(path: Path, file: Path) -> None:
    """`path` is a trace directory."""
    trace = Trace.open(path)
    formats = path / "formats"
    data = bytearray(b"\x17\x08\x44tracing6\0\0\x08" + struct.pack("<I", trace.meta.page_size))
    for name in ("header_page", "header_event"):
        data += name.encode() + b"\0" + _sized(formats / name)
    # None of ftrace's own.
    data += struct.pack("<I", 0)
    systems = sorted(each for each in formats.iterdir() if each.is_dir())
    data += struct.pack("<I", len(systems))
    for system in systems:
        files = sorted(system.iterdir())
        data += system.name.encode() + b"\0" + struct.pack("<I", len(files))
        for each in files:
            data += _sized(each)
    comms = "".join(f"{pid} {comm}\n" for pid, comm in trace.comms().items()).encode()
    # No kallsyms, no printk formats.
    data += struct.pack("<IIQ", 0, 0, len(comms)) + comms
    files = [path / f"cpu{cpu}.raw" for cpu in trace.meta.cpus]
    data += struct.pack("<I", len(files)) + b"flyrecord\0"
    size = trace.meta.page_size
    place = -(-(len(data) + 16 * len(files)) // size) * size
    begin = place
    for each in files:
        length = each.stat().st_size // size * size
        data += struct.pack("<QQ", place, length)
        place += length
    with file.open("wb") as out:
        out.write(data.ljust(begin, b"\0"))
        for each in files:
            out.write(each.read_bytes()[: each.stat().st_size // size * size])


def _sized(file: Path) -> bytes:
    text = file.read_bytes()
    return struct.pack("<Q", len(text)) + text
