"""What of a driver is worth looking at, whether or not it can be hung from here.

Names only: trace events, functions to probe and files of debugfs; who lacks one of them says so.
Sources: drivers/gpu/drm/{drm_debugfs.c,amd/amdgpu/{amdgpu_trace.h,amdgpu_debugfs.c},
i915/{i915_trace.h,i915_debugfs.c}} of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.gpu.base import debugfs

__all__ = ["files", "probes", "trace_events"]

_EVENTS = {
    "amdgpu": ("amdgpu:amdgpu_cs_ioctl", "amdgpu:amdgpu_sched_run_job"),
    "i915": ("i915:i915_request_*",),
}
# Pairs of entry and return: NAME_begin and NAME_end.  "reset" is recovery as a whole, from the hang
# that was noticed to its end; "display" is what it does to the display before the GPU is reset.
# Who recovers in drm_sched's timeout handler has the collector's own probes on that.
# i915/gt/intel_reset.c, i915/display/intel_display_reset.c: neither is static.
_PROBES = {
    "i915": (
        ("reset", "i915", "intel_gt_handle_error"),
        ("display", "i915", "intel_display_reset_prepare"),
    ),
}
# Below the card's folder; any driver has the first.  Not "state" nor amdgpu_vm_info: they take
# modeset and reservation locks, and a reader that is stuck would be a finding of its own.
_COMMON = ("name", "clients", "gem_names", "framebuffer", "internal_clients")
_FILES = {
    "amdgpu": ("amdgpu_fence_info", "amdgpu_gem_info"),
    "i915": ("i915_engine_info", "i915_gem_objects", "i915_wedged", "i915_runtime_pm_status"),
}


def trace_events(driver: str) -> Sequence[str]:
    """Patterns of the driver's own "system:event" that tell of jobs and fences."""
    return _EVENTS.get(driver, ())


def probes(driver: str) -> Sequence[str]:
    """The driver's own functions that tell of recovery, as the agent's trace.start takes them."""
    return [
        f"{kind}:{name}_{end}:{module}:{function}"
        for name, module, function in _PROBES.get(driver, ())
        for kind, end in (("p", "begin"), ("r", "end"))
    ]


def files(driver: str, card: Mapping[str, Any]) -> list[str]:
    """Files that show what `card` is stuck in, those that change soonest first; reading them
    changes nothing."""
    return [f"{debugfs(card)}/{name}" for name in (*_FILES.get(driver, ()), *_COMMON)]
