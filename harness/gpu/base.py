"""The promise every GPU back end keeps: engines, recipes, what a hang must end with.

Data and decisions only; `dut` carries them out through the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "USER_FENCES",
    "Annotation",
    "Backend",
    "Dump",
    "Engine",
    "Knob",
    "ManualReset",
    "debugfs",
]

USER_FENCES = frozenset({"sw_sync", "vgem"})
"""Drivers whose fences userspace itself signals when it likes: drivers/dma-buf/sw_sync.c and
drivers/gpu/drm/vgem/vgem_fence.c."""


def debugfs(card: Mapping[str, Any]) -> str:
    """The card's directory in debugfs (drivers/gpu/drm/drm_debugfs.c: by minor number)."""
    return f"/sys/kernel/debug/dri/{str(card['name']).removeprefix('card')}"


@dataclass(frozen=True, slots=True)
class Knob:
    """A file of the driver's and what to write there; the agent restores it."""

    path: str
    value: str


@dataclass(frozen=True, slots=True)
class ManualReset:
    """The file that resets the GPU: by writing `data`, or by being read where that is None."""

    path: str
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Dump:
    """The file in which a reset leaves its dump; writing to it frees that.

    `name` is what people call it.  Without a dump the file is absent, or begins with
    `empty`.  The kernel makes dumps where `switch` can be read and does not hold `off`.
    """

    name: str
    path: str
    switch: str
    empty: bytes = b""
    off: bytes = b""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Which part of a driver's recovery lockdep is told to be on the path that completes fences.

    `path` is that part in words; that it ran is proven by the lock class `inside` taken next
    behind dma_fence_map, or by the whole `chain` of classes.  `without`: what of recovery is in
    no such section, "" where all of it is in one; `switch`: what may have it off.
    """

    path: str
    inside: str
    chain: tuple[str, ...]
    without: str = ""
    switch: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """One ring or queue that takes jobs.

    `name` is what a test's id shows; `ip` and `ring` are what the workload submits
    to; `logged` is the ring's name in the kernel log, or "" where the log does not
    name it; `pins` are the knobs that keep its jobs on this very ring; `recipes` how
    the workload can hang it, the safest first, where that is not the same for all; `slow`
    whether it can be given jobs that are slow but end.
    """

    name: str
    ip: str
    ring: int
    logged: str = ""
    pins: tuple[Knob, ...] = ()
    recipes: tuple[str, ...] = ()
    slow: bool = True


class Backend(Protocol):
    """One driver's side of things."""

    driver: str
    annotation: Annotation
    scheduler: bool
    """Whether its jobs go through drm_sched."""

    def engines(
        self, discovered: Sequence[Mapping[str, Any]], card: Mapping[str, Any]
    ) -> list[Engine]:
        """The engines a workload discovered on `card` (the agent's `cards` entry)."""

    def recipes(self, engine: Engine) -> list[str]:
        """Ways to hang `engine`, the safest first: each has a CPU-side bail-out or is ended
        by recovery alone."""

    def dangerous(self, engine: Engine) -> Mapping[str, str]:
        """Further ways, each with why the machine may not come back from it."""

    def hang_errors(self) -> frozenset[int]:
        """The negative errnos a hung job's fence may end with."""

    def innocent_errors(self) -> frozenset[str]:
        """Names of the errnos a job may end with that a reset took along."""

    def timeout_s(self, engine: Engine, card: Mapping[str, Any]) -> float | None:
        """Seconds before which the driver never calls a job on `engine` hung; None if unknown."""

    def haste(self, engine: Engine, card: Mapping[str, Any]) -> tuple[Knob, ...]:
        """Knobs that let the driver notice a hang of `engine` sooner; () where it has none."""

    def no_reset(self, card: Mapping[str, Any]) -> Knob | None:
        """The knob with which the driver does not reset the GPU any more; None if it has none."""

    def announced(self, scope: str) -> tuple[tuple[str, str], ...]:
        """Name and value of the uevents, in their order, that every reset of `scope` (gpu, ring,
        engine) ends in that did not fail; () where this driver promises none."""

    def refusal(self, device: Mapping[str, Any]) -> str:
        """Why this device (what a client is told of it) must not be hung, or ""."""

    def unmap_waits(self) -> bool:
        """Whether the driver's MMU notifier waits for the jobs that use a process's own memory,
        before that goes (munmap) or is shared (fork)."""

    def shrinker(self, card: Mapping[str, Any]) -> Knob | None:
        """The file, and what to write there, that has the driver give memory back as reclaim
        would; None where it has none."""

    def manual_reset(self, card: Mapping[str, Any]) -> ManualReset | None:
        """How to have the driver reset the GPU by hand; None where that is not possible."""

    def coredump(self, card: Mapping[str, Any]) -> Dump | None:
        """Where a reset leaves its dump; None where the driver makes none."""

    def coredump_problems(self, dump: bytes) -> list[str]:
        """What is missing of a dump after a hang; [] for a whole one."""
