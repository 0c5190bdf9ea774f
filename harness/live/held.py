"""What a kernel holds for itself: memory, slabs, open files; and what grows of that for good.

Documentation/filesystems/proc.rst (meminfo, slabinfo), Documentation/admin-guide/sysctl/fs.rst
(file-nr).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent

__all__ = ["LIMITS", "Held", "grown", "held"]

LIMITS: Mapping[str, float] = {"KiB of memory": 384, "KiB of slabs": 128, "open files": 0.5}
"""What each step may seem to keep.  Pages on the CPUs' own free lists and half empty slabs, which
nothing tells from memory in use, stay far below that over ten steps."""


@dataclass(frozen=True, slots=True)
class Held:
    """By the names of LIMITS; `slabs` are the objects in use of each cache, {} where this kernel
    does not tell (CONFIG_SLUB_DEBUG)."""

    amounts: Mapping[str, int]
    slabs: Mapping[str, int] = field(default_factory=dict)


def held(agent: Agent, limit_s: float) -> Held:
    """What the target holds now, its caches dropped first.  Raises TargetError."""
    data = b64encode(b"3\n").decode()
    agent.call(
        "write", Deadline(limit_s), path="/proc/sys/vm/drop_caches", data=data, seconds=limit_s
    )
    meminfo = _read(agent, "/proc/meminfo", limit_s)
    kib = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines()}
    # Neither free, nor of processes, nor in caches that can be dropped.  Shared memory counts,
    # since GEM objects may be made of it.
    caches = kib["Buffers"] + kib["Cached"] + kib["SwapCached"] - kib["Shmem"]
    memory = kib["MemTotal"] - kib["MemFree"] - kib["AnonPages"] - kib["SReclaimable"] - caches
    files = int(_read(agent, "/proc/sys/fs/file-nr", limit_s).split()[0])
    amounts = (memory, kib["SUnreclaim"], files)
    return Held(dict(zip(LIMITS, amounts, strict=True)), _slabs(agent, limit_s))


def grown(levels: Sequence[Held], steps: int) -> list[str]:
    """What every stretch between `levels`, of `steps` each, left more of than LIMITS allow: what
    grows once is no leak.  In words, with the slabs that grew most."""
    found = []
    for name, limit in LIMITS.items():
        by = [(b.amounts[name] - a.amounts[name]) / steps for a, b in pairwise(levels)]
        if by and min(by) >= limit:
            amounts = [level.amounts[name] for level in levels]
            found.append(f"each keeps about {min(by):.3g} {name}: {amounts}")
    slabs = {name: [level.slabs.get(name, 0) for level in levels] for name in levels[-1].slabs}
    least = {name: min(b - a for a, b in pairwise(counts)) for name, counts in slabs.items()}
    most = sorted((name for name in least if least[name] >= steps), key=lambda name: -least[name])
    if found and most:
        found.append(f"of slabs grew {', '.join(f'{name} {slabs[name]}' for name in most[:3])}")
    return found


def _slabs(agent: Agent, limit_s: float) -> dict[str, int]:
    try:
        text = _read(agent, "/proc/slabinfo", limit_s)
    except TargetError:
        return {}
    rows = [line.split() for line in text.splitlines()[2:]]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def _read(agent: Agent, path: str, limit_s: float) -> str:
    return b64decode(agent.call("read", Deadline(limit_s), path=path)["data"]).decode()
