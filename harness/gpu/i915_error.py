"""i915's error state: what hung, and is all of it there?

Format: drivers/gpu/drm/i915/i915_gpu_error.c of Linux 6.12, __err_print_to_sgl().  Buffers
are Ascii85 as of include/linux/ascii85.h, of which one line holds one buffer.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["EMPTY", "Engine", "ErrorState", "parse", "problems"]

EMPTY = b"No error state collected"
"""What the file holds while nothing has hung."""

_HANG = re.compile(r"GPU HANG: ecode (\d+):([0-9a-f]+):([0-9a-f]{8})(?:, in (.*) \[(\d+)\])?")
_ENGINE = re.compile(r"^(\w+) command stream:$")
_REGISTER = re.compile(r"^  (\w[\w ]*): +(?:\[?0x)([0-9a-f]{8})(?:[ _]([0-9a-f]{8}))?")
_BUFFER = re.compile(r"^(\w+) --- (.+) = 0x([0-9a-f]{8}) ([0-9a-f]{8})$")
_PARAMETER = re.compile(r"^i915\.\w+=")
# Bytes that all buffers of a dump may come to: zeros are packed a thousandfold.
_MOST = 64 << 20
# Of each engine that ran something, on every generation (error_print_engine).
_WANTED = ("START", "HEAD", "TAIL", "CTL", "ACTHD", "IPEHR", "INSTDONE")


@dataclass(slots=True)
class Engine:
    """One engine's registers by name, and its buffers' contents by name.

    Of a register printed in two halves the value is both; None is a buffer that does not decode,
    or for which there is no room.
    """

    name: str
    hung: bool = False
    registers: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, bytes | None] = field(default_factory=dict)


@dataclass(slots=True)
class ErrorState:
    """`process` and `pid` are the guilty one's, "" and 0 where the driver names none."""

    ecode: str = ""
    generation: int = 0
    process: str = ""
    pid: int = 0
    engines: list[Engine] = field(default_factory=list)
    parameters: int = 0
    whole_lines: bool = True


def parse(dump: bytes) -> ErrorState:
    """What `dump` says; of one that is cut or garbled what can be read."""
    text = dump.decode("utf-8", "replace")
    state = ErrorState(whole_lines=text.endswith("\n"))
    room = _MOST
    lines = iter(text.split("\n"))
    for line in lines:
        engine = state.engines[-1] if state.engines else None
        if not state.ecode and (hang := _HANG.match(line)):
            state.ecode, state.generation = f"{hang[1]}:{hang[2]}:{hang[3]}", int(hang[1])
            state.process, state.pid = hang[4] or "", int(hang[5] or 0)
        elif started := _ENGINE.match(line):
            state.engines.append(Engine(started[1]))
        elif _PARAMETER.match(line):
            state.parameters += 1
        elif engine is not None and line.startswith("  hung: "):
            engine.hung = line.strip() != "hung: 0"
        elif engine is not None and (register := _REGISTER.match(line)):
            high, low = (register[2], register[3]) if register[3] else ("0", register[2])
            engine.registers[register[1]] = int(high, 16) << 32 | int(low, 16)
        elif engine is not None and (buffer := _BUFFER.match(line)):
            contents = engine.buffers[buffer[2]] = _contents(lines, room)
            room -= len(contents or b"")
    return state


def problems(dump: bytes) -> list[str]:
    """What is missing of an error state after a hang, or wrong with it; [] for a whole one."""
    state = parse(dump)
    found = []
    if not state.ecode:
        found.append(f"does not begin with a GPU HANG: {dump[:60]!r}")
    if not state.whole_lines:
        found.append(f"ends within a line: {dump[-60:]!r}")
    if not state.parameters:
        found.append("does not reach the driver's parameters, its end")
    hung = [engine for engine in state.engines if engine.hung]
    if not hung:
        found.append("names no engine that hung")
    for engine in hung:
        if missing := [name for name in _WANTED if name not in engine.registers]:
            found.append(f"has no {', '.join(missing)} of {engine.name}")
        for name in ("batch", "ring"):
            if name not in engine.buffers:
                found.append(f"has no {name} of {engine.name}")
    for engine in state.engines:
        broken = [name for name, contents in engine.buffers.items() if contents is None]
        found += [f"has a {name} of {engine.name} that does not decode" for name in broken]
    return found


def _contents(lines: Iterator[str], room: int) -> bytes | None:
    """The buffer that the next line holds, of at most `room` bytes; one about the size of pages
    may be before it."""
    line = next(lines, "")
    if line.startswith("gtt_page_sizes"):
        line = next(lines, "")
    try:
        packed = _ascii85(line[1:])
        if line[:1] == ":":
            packed = zlib.decompressobj().decompress(packed, room + 1)
        elif line[:1] != "~":
            return None
    except (ValueError, struct.error, zlib.error):
        return None
    return packed if len(packed) <= room else None


def _ascii85(text: str) -> bytes:
    """Five digits, or a z, for each dword of the CPU.  Raises ValueError, struct.error."""
    words = []
    at = 0
    while at < len(text):
        if text[at] == "z":
            words.append(0)
            at += 1
            continue
        group = text[at : at + 5]
        if len(group) < 5:
            raise ValueError("cut within a dword")
        word = 0
        for character in group:
            digit = ord(character) - ord("!")
            if not 0 <= digit < 85:
                raise ValueError(f"no digit: {character!r}")
            word = word * 85 + digit
        words.append(word)
        at += 5
    return struct.pack(f"<{len(words)}I", *words)
