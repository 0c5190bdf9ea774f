"""amdgpu's devcoredump: is all of it there?

Format: drivers/gpu/drm/amd/amdgpu/amdgpu_dev_coredump.c of Linux 6.12.  Its last part lists
every ring with as many rows of contents as it says the ring has dwords.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

__all__ = ["problems"]

_HEADER = "**** AMDGPU Device Coredump ****"
_RINGS = re.compile(r"^Ring buffer information$", re.MULTILINE)
_RING = re.compile(r"^ring name: (\S+)$", re.MULTILINE)
_SIZE = re.compile(r"^Ring size in dwords: (\d+)$", re.MULTILINE)
_ROW = re.compile(r"^0x[0-9a-f]+ \t 0x[0-9a-f]+$", re.MULTILINE)
_GUILTY = re.compile(r"^IP Type: \d+ Ring Name: (\S+)", re.MULTILINE)


def problems(dump: bytes) -> list[str]:
    """What is missing of a dump, or wrong with it; [] for one that is whole."""
    text = dump.decode("utf-8", "replace")
    found = []
    if not text.startswith(_HEADER + "\n"):
        found.append(f"does not begin with {_HEADER!r}: {text[:60]!r}")
    if not text.endswith("\n"):
        found.append(f"ends within a line: {text[-60:]!r}")
    guilty = _GUILTY.search(text)
    if guilty is None:
        found.append("does not say which ring timed out")
    start = _RINGS.search(text)
    if start is None:
        return [*found, "has no ring buffer information"]
    rings = dict(_rings(text[start.end() :]))
    if not rings:
        found.append("lists no ring")
    if guilty is not None and guilty[1] not in rings:
        found.append(f"does not hold the ring that timed out, {guilty[1]}")
    for name, (size, rows) in rings.items():
        if size is None:
            found.append(f"does not say how large ring {name} is")
        elif rows != size:
            found.append(f"has {rows} of the {size} dwords of ring {name}")
    return found


def _rings(text: str) -> Iterator[tuple[str, tuple[int | None, int]]]:
    """(name, (dwords it has, rows that are there)) of each ring."""
    names = list(_RING.finditer(text))
    for ring, following in zip_longest(names, names[1:]):
        part = text[ring.end() : following.start() if following else len(text)]
        size = _SIZE.search(part)
        yield ring[1], (int(size[1]) if size else None, len(_ROW.findall(part)))
