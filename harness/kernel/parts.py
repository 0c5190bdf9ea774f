"""Several files that are one log: pstore's parts of a dump, a rotated log.

kmsg_dump() hands the end of the log out first: of a dump's parts the one with the highest number
is the oldest (fs/pstore/platform.c: pstore_dump(), "Panic#1 Part2").
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

__all__ = ["one_log", "ordered"]

_HEAD = re.compile(
    rb"^(?:<\d>)?(?P<why>[A-Z]\w*)#(?P<dump>\d{1,9}) Part(?P<part>\d{1,9})\r?$", re.M
)
# Of pstore's files in bytes: a region of memory or flash that a machine keeps over a reset.
_MOST = 64 << 20


def ordered(raw: bytes) -> bytes:
    """Dumps, one after the other and each oldest part first, out of parts in any order.  What
    stands before the first part stays there."""
    heads = list(_HEAD.finditer(raw))
    if not heads:
        return raw
    ends = [head.start() for head in heads[1:]] + [len(raw)]
    parts = sorted(
        (int(head["dump"]), -int(head["part"]), number, raw[head.end() + 1 : end])
        for number, (head, end) in enumerate(zip(heads, ends, strict=True))
    )
    return raw[: heads[0].start()] + b"".join(_whole(part) for *_, part in parts)


def one_log(files: Sequence[BinaryIO]) -> BinaryIO:
    """What `files` hold together, in the order given; pstore's in their own, before the others."""
    peeked = [
        file
        if isinstance(file, io.BufferedReader)
        else io.BufferedReader(cast("io.RawIOBase", file))
        for file in files
    ]
    dumps = [file for file in peeked if _HEAD.match(file.peek(64)[:64].split(b"\n")[0])]
    others = [file for file in peeked if file not in dumps]
    if not dumps and len(others) == 1:
        return others[0]
    pieces = [_whole(file.read(_MOST)) for file in dumps]
    return io.BufferedReader(_Joined(ordered(b"".join(pieces)), others), 1 << 20)


def _whole(piece: bytes) -> bytes:
    """`piece` with an end to its last line."""
    return piece if piece.endswith(b"\n") or not piece else piece + b"\n"


class _Joined(io.RawIOBase):
    def __init__(self, first: bytes, files: Sequence[BinaryIO]) -> None:
        self._rest = self._pieces(first, files)
        self._left = memoryview(b"")

    @staticmethod
    def _pieces(first: bytes, files: Sequence[BinaryIO]) -> Iterator[bytes]:
        yield first
        for file in files:
            last = b""
            while piece := file.read(1 << 20):
                yield piece
                last = piece
            if last and not last.endswith(b"\n"):
                yield b"\n"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._rest, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
