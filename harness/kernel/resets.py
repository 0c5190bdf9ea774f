"""GPU events: what the drivers print when a hang is found and recovery runs.

Wording: drivers/gpu/drm/amd/amdgpu/{amdgpu_job.c,amdgpu_device.c} and
drivers/gpu/drm/i915/{i915_gpu_error.c,gt/intel_reset.c}, 5.x to 7.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.kernel.records import Record

__all__ = ["GpuEvent", "find"]

# "escalated": a ring's reset failed, and the driver goes on to reset all of the GPU.
Step = Literal[
    "hang", "soft-recovered", "reset-begin", "reset-done", "escalated", "reset-failed", "wedged"
]


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One step of a recovery.  `engine` is the ring or engine the driver named, or ""."""

    step: Step
    engine: str
    seq: int
    usec: int
    text: str


_STEPS: tuple[tuple[Step, re.Pattern[str]], ...] = (
    # amdgpu
    ("soft-recovered", re.compile(r"ring (?P<engine>\S+) timeout, but soft recovered")),
    ("hang", re.compile(r"ring (?P<engine>\S+) timeout, signaled seq=\d+")),
    ("reset-begin", re.compile(r"GPU reset begin!|Starting (?P<engine>\S+) ring reset")),
    ("reset-done", re.compile(r"GPU reset\(\d+\) succeeded!|Ring (?P<engine>\S+) reset succeeded")),
    # "failed" in most kernels that reset rings, "failure" in the first
    ("escalated", re.compile(r"Ring (?P<engine>\S+) reset fail(?:ed|ure)")),
    ("reset-failed", re.compile(r"GPU reset\(\d+\) failed|GPU reset end with ret = -\d+")),
    # i915
    ("hang", re.compile(r"GPU HANG: ecode \d+:(?:[0-9a-f]+:)?(?:0x)?[0-9a-f]{8}")),
    ("reset-begin", re.compile(r"Resetting (?:chip|(?P<engine>\w+)) for ")),
    ("reset-failed", re.compile(r"Failed to reset chip|Failed to initialise HW following reset")),
    ("wedged", re.compile(r"GPU reset not supported|device wedged, needs recovery")),
)


def find(records: Iterable[Record]) -> list[GpuEvent]:
    """The GPU events in `records`, in order."""
    events = []
    for record in records:
        if record.facility:
            continue
        for step, pattern in _STEPS:
            if match := pattern.search(record.text):
                engine = match.groupdict().get("engine") or ""
                events.append(GpuEvent(step, engine, record.seq, record.usec, record.text))
                break
    return events
