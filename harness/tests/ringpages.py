"""Ring-buffer pages made up, with every kind of record there is; a trace directory of them.

The layout is the kernel's (kernel/trace/ring_buffer.c), for 32-bit and 64-bit machines, and for
those that align every record to 8 bytes.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EVENTS", "Shape", "make"]

EVENTS = ("test:plain", "test:texts", "test:odd", "test:rel")
NAMES = ("", "gfx", "comp_1.0.0", "amdgpu", "Xorg[17]", "ünïcødé", "a" * 40, "<b>&\"'")
COMMON = (
    ("unsigned short common_type", 2, 0),
    ("unsigned char common_flags", 1, 0),
    ("unsigned char common_preempt_count", 1, 0),
    ("int common_pid", 4, 1),
)


@dataclass(frozen=True)
class Shape:
    """Of a machine's ring buffer; `long` in bytes."""

    page_size: int = 4096
    long: int = 8
    align8: bool = False

    @property
    def head(self) -> int:
        return 8 + self.long


def make(folder: Path, shape: Shape, seed: int, pages: int) -> Path:
    """A trace of two CPUs with `pages` pages each."""
    rng = random.Random(seed)
    (folder / "formats/test").mkdir(parents=True)
    write_formats(folder / "formats", shape)
    meta = {"page_size": shape.page_size, "clock": "mono", "cpus": [0, 1], "buffer_kb": 64}
    (folder / "meta.json").write_text(json.dumps(meta))
    for cpu in (0, 1):
        time = 10**9 + cpu
        raw = b""
        for _ in range(pages):
            page, time = make_page(rng, shape, time)
            raw += page
        (folder / f"cpu{cpu}.raw").write_bytes(raw)
    return folder


def write_formats(folder: Path, shape: Shape) -> None:
    data = shape.page_size - shape.head
    (folder / "header_page").write_text(
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\toffset:8;\tsize:{shape.long};\tsigned:1;\n"
        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:{shape.head};\tsize:{data};\tsigned:1;\n"
    )
    (folder / "header_event").write_text(
        "# compressed entry header\n"
        "\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n"
        "\tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n"
        "\tdata max type_len  == 28\n"
    )
    own: dict[str, list[tuple[str, int, int]]] = {
        "plain": [("u64 big", 8, 0), ("s32 small", 4, 1), ("unsigned int context", 4, 0)],
        "texts": [
            ("__data_loc char[] driver", 4, 0),
            ("__data_loc char[] timeline", 4, 0),
            ("unsigned int seqno", 4, 0),
        ],
        "odd": [
            ("u8 flag", 1, 0),
            ("s64 far", 8, 1),
            ("u16 half", 2, 0),
            ("char comm[16]", 16, 0),
            ("unsigned long args[6]", 6 * shape.long, 0),
            ("u8 tail[3]", 3, 0),
        ],
        "rel": [("u8 one", 1, 0), ("__rel_loc char[] name", 4, 0), ("s16 two", 2, 1)],
    }
    for number, (name, fields) in enumerate(own.items()):
        lines = [f"name: {name}", f"ID: {900 + number}", "format:"]
        offset = 0
        for what, size, signed in (*COMMON, *fields):
            lines.append(f"\tfield:{what};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
            offset += size
        (folder / "test" / name).write_text("\n".join(lines) + '\n\nprint fmt: ""\n')


def make_page(rng: random.Random, shape: Shape, time: int) -> tuple[bytes, int]:
    """A page that begins at `time`, and the time at its end."""
    own, room = time, shape.page_size - shape.head
    data = bytearray()
    for _ in range(rng.choice((0, 1, 5, 1000))):
        record, later = rng.choices(
            (event_record, extend_record, stamp_record, discarded_record), (90, 4, 4, 2)
        )[0](rng, shape, time)
        if len(data) + len(record) > room:
            break
        data += record
        time = later
    flags = 0
    used = len(data)
    left = room - used
    if rng.random() < 0.3 and left >= 8:
        # What is left is one piece of padding without a time: its rest is never written.
        data += struct.pack("<I", 29) + rng.randbytes(4)
        used = rng.choice((len(data), room // 4 * 4))
    if rng.random() < 0.2:
        flags = 1 << 31
        if room - used >= shape.long and rng.random() < 0.7:
            flags |= 1 << 30
            data = data.ljust(used, b"\0") + rng.randrange(1, 10**6).to_bytes(shape.long, "little")
    page = struct.pack("<Q", own) + (used | flags).to_bytes(shape.long, "little") + data
    return page.ljust(shape.page_size, b"\0"), time + rng.randrange(10**4)


def header(kind: int, delta: int) -> bytes:
    return struct.pack("<I", kind | delta << 5)


def wrap(rng: random.Random, shape: Shape, payload: bytes, delta: int) -> bytes:
    """A data record; the bytes that align it are whatever was there."""
    payload += rng.randbytes(-len(payload) % 4)
    if shape.align8 or len(payload) > 112:
        if shape.align8:
            payload += rng.randbytes(-len(payload) % 8)
        return header(0, delta) + struct.pack("<I", len(payload) + 4) + payload
    return header(len(payload) // 4, delta) + payload


def event_record(rng: random.Random, shape: Shape, time: int) -> tuple[bytes, int]:
    delta = rng.choice((0, 1, 999, (1 << 27) - 1))
    number = rng.randrange(5)
    pid = rng.choice((0, 1, 4711, -1))
    common = struct.pack("<HBBi", 900 + number, rng.randrange(256), 1, pid)
    body = BODIES[number](rng, shape)
    return wrap(rng, shape, common + body, delta), time + delta


def plain(rng: random.Random, _: Shape) -> bytes:
    return struct.pack("<QiI", rng.getrandbits(64), rng.randrange(-9, 9), rng.getrandbits(32))


def texts(rng: random.Random, _: Shape) -> bytes:
    driver, timeline = (rng.choice(NAMES).encode() + b"\0" for _ in range(2))
    begin = 8 + 12
    where = (len(driver) << 16 | begin, len(timeline) << 16 | begin + len(driver))
    return struct.pack("<III", *where, rng.getrandbits(32)) + driver + timeline


def odd(rng: random.Random, shape: Shape) -> bytes:
    comm = rng.choice(NAMES).encode()[:15].ljust(16, b"\0")
    args = b"".join(rng.randbytes(shape.long) for _ in range(6))
    return struct.pack("<BqH", 7, rng.getrandbits(63) - (1 << 62), 3) + comm + args + b"end"


def rel(rng: random.Random, _: Shape) -> bytes:
    name = rng.choice(NAMES).encode() + b"\0"
    # From the end of the field, over `two`.
    return struct.pack("<BIh", 1, len(name) << 16 | 2, -2) + name


def unknown(rng: random.Random, _: Shape) -> bytes:
    """Of an event without a format; long enough for a header that tells the length."""
    return rng.randbytes(rng.randrange(300))


BODIES: tuple[Callable[[random.Random, Shape], bytes], ...] = (plain, texts, odd, rel, unknown)


def extend_record(rng: random.Random, _: Shape, time: int) -> tuple[bytes, int]:
    delta = rng.randrange(1 << 40)
    return header(30, delta & (1 << 27) - 1) + struct.pack("<I", delta >> 27), time + delta


def stamp_record(rng: random.Random, _: Shape, time: int) -> tuple[bytes, int]:
    time += rng.randrange(1 << 30)
    return header(31, time & (1 << 27) - 1) + struct.pack("<I", time >> 27), time


def discarded_record(rng: random.Random, _: Shape, time: int) -> tuple[bytes, int]:
    delta, size = rng.choice((1, 77)), 4 * rng.randrange(1, 9)
    record = header(29, delta) + struct.pack("<I", size) + rng.randbytes(size - 4)
    return record, time + (delta if delta != 1 else 0)
