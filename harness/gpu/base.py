"""The promise every GPU back end keeps: engines, recipes, what a hang must end with.

Data and decisions only; `dut` carries them out through the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["USER_FENCES", "Backend", "Engine", "Knob", "debugfs"]

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
class Engine:
    """One ring or queue that takes jobs.

    `name` is what a test's id shows; `ip` and `ring` are what the workload submits
    to; `logged` is the ring's name in the kernel log, or "" where the log does not
    name it; `pins` are the knobs that keep its jobs on this very ring.
    """

    name: str
    ip: str
    ring: int
    logged: str = ""
    pins: tuple[Knob, ...] = ()


class Backend(Protocol):
    """One driver's side of things."""

    driver: str

    def engines(
        self, discovered: Sequence[Mapping[str, Any]], card: Mapping[str, Any]
    ) -> list[Engine]:
        """The engines a workload discovered on `card` (the agent's `cards` entry)."""

    def recipes(self, engine: Engine) -> list[str]:
        """Ways to hang `engine`, the safest first: each has a CPU-side bail-out or is ended
        by recovery alone."""

    def hang_errors(self) -> frozenset[int]:
        """The negative errnos a hung job's fence may end with."""

    def timeout_s(self, engine: Engine, card: Mapping[str, Any]) -> float | None:
        """Seconds after which the driver calls a job on `engine` hung; None if unknown."""

    def refusal(self, device: Mapping[str, Any]) -> str:
        """Why this device (what a client is told of it) must not be hung, or ""."""

    def manual_reset(self, card: Mapping[str, Any]) -> tuple[str, bool] | None:
        """The debugfs file that resets the GPU and whether *reading* it does so; None if none."""

    def coredump(self, card: Mapping[str, Any]) -> str | None:
        """The file in which a reset leaves its devcoredump; None where the driver makes none."""

    def coredump_problems(self, dump: bytes) -> list[str]:
        """What is missing of a devcoredump after a hang; [] for a whole one."""
