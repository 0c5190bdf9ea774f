"""What lockdep knows of a boot: is its graph primed, and was the annotated path really taken?

From the text of /proc/lockdep (edges between lock classes) and /proc/lockdep_chains (what was
held together), kernel/locking/lockdep_proc.c of Linux 6.12: l_show(), lc_show().
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["PRIMED", "SECTION", "Graph", "held_in_order", "unprimed"]

SECTION = "dma_fence_map"
"""The class that dma_fence_begin_signalling() takes (drivers/dma-buf/dma-fence.c)."""

PRIMED: Mapping[str, str] = {
    "console_lock": "console_lock",
    "crtc_ww_class": "crtc_ww_class_mutex",
    "dma_resv": "reservation_ww_class_mutex",
    "fs_reclaim": "fs_reclaim",
}
"""What must lead to SECTION before lockdep can report that recovery takes it, and its class:
dma_resv_lockdep() of drivers/dma-buf/dma-resv.c primes the last two at boot, for the first two
somebody must have allocated under them, as every driver with a display does."""

# "[<key> ]OPS:... FD:   30 BD:  249 ++++: name"; the keys are hashed and tell nothing.
_CLASS = re.compile(r"^[0-9a-f]+ (?:OPS: *\d+ )?(?:FD: *\d+ BD: *\d+ \S+)?: ?(.+)$")
_AFTER = re.compile(r"^ -> \[[0-9a-f]+\] (.+)$")
_HELD = re.compile(r"^\[[0-9a-f]+\] (.+)$")
# Instances of one name: "&fence->lock#2", and subclasses "class/1".
_INSTANCE = re.compile(r"(?:#\d+)?(?:/\d+)?$")


@dataclass(frozen=True, slots=True)
class Graph:
    """Which class was ever taken while another was held; classes of one name are one."""

    after: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, text: str) -> Graph:
        """From /proc/lockdep; lines that are none of its are passed over."""
        after: dict[str, set[str]] = {}
        held: set[str] | None = None
        for line in text.splitlines():
            if edge := _AFTER.match(line):
                if held is not None:
                    held.add(_name(edge[1]))
            elif found := _CLASS.match(line):
                held = after.setdefault(_name(found[1]), set())
        return cls({name: frozenset(names) for name, names in after.items()})

    def has(self, first: str, then: str) -> bool:
        """Whether `then` was taken directly while `first` was held."""
        return then in self.after.get(first, ())

    def path(self, first: str, last: str) -> tuple[str, ...]:
        """A shortest way from one class to the other, both included; () where there is none."""
        ways: deque[tuple[str, ...]] = deque([(first,)])
        seen = {first}
        while ways:
            way = ways.popleft()
            for name in sorted(self.after.get(way[-1], ())):
                if name == last:
                    return (*way, name)
                if name not in seen:
                    seen.add(name)
                    ways.append((*way, name))
        return ()


def unprimed(graph: Graph) -> list[str]:
    """Of PRIMED those that do not lead to SECTION, by their common names."""
    return [name for name, lock in PRIMED.items() if not graph.path(lock, SECTION)]


def held_in_order(chains: Iterable[str], names: tuple[str, ...]) -> bool:
    """Whether a chain in lines of /proc/lockdep_chains has `names` next to each other."""
    chain: list[str] = []
    for line in chains:
        if held := _HELD.match(line.rstrip("\n")):
            chain.append(_name(held[1]))
            if tuple(chain[-len(names) :]) == names:
                return True
        else:
            chain = []
    return False


def _name(text: str) -> str:
    return _INSTANCE.sub("", text)
