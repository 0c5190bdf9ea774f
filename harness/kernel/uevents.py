"""GPU events that the kernel tells by uevents, where its log says nothing.

i915 announces a reset of the whole GPU with ERROR=1 and RESET=1, and with ERROR=0 that the GPU
and the display are back; the log has a line for the beginning and for failures alone
(drivers/gpu/drm/i915/gt/intel_reset.c, intel_gt_reset_global(), Linux 6.12).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from harness.kernel.resets import GpuEvent

__all__ = ["find"]

_DONE = ("ERROR", "0")


def find(lines: Iterable[bytes], since_ns: int, device: str) -> list[GpuEvent]:
    """The GPU events in lines of uevents.jsonl from `since_ns` on, CLOCK_MONOTONIC of the target,
    of the card that `device` names: its PCI address or "cardN"; "" for any.

    `usec` is when the event reached the agent; `seq` is -1, as it is of no log.  Torn lines
    are left out.
    """
    events = []
    for line in lines:
        if b'"ERROR"' not in line:
            continue
        try:
            told = json.loads(line)
            mono, properties = int(told["mono"]), dict(told["properties"])
            path = str(told["devpath"])
        except (ValueError, KeyError, TypeError):
            continue
        name, value = _DONE
        if told.get("subsystem") != "drm" or properties.get(name) != value or mono < since_ns:
            continue
        # /devices/.../0000:00:02.0/drm/card0
        if device and device not in path.split("/")[-3:]:
            continue
        text = f"uevent {told.get('action')} {path}: {name}={value}"
        events.append(GpuEvent("reset-done", "", -1, mono // 1000, text, "i915", scope="gpu"))
    return events
