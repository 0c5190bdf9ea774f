"""i915: engines, hang recipes, and what its recovery leaves behind.

Facts: drivers/gpu/drm/i915/{i915_debugfs.c,i915_gpu_error.c,i915_request.c,
gt/{intel_reset.c,intel_engine_heartbeat.c,sysfs_engines.c}} of Linux 6.12.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from harness.gpu import i915_error
from harness.gpu.base import Annotation, Dump, Engine, Knob, ManualReset, debugfs

__all__ = ["I915"]

_HEARTBEAT = "heartbeat_interval_ms"
# As fast as hangs can be told from work in emulation; real engines need no more.
_HASTE_MS = 400
# Before the eighth generation nothing is preempted; from then on a preemptible spinner is no hang.
_PREEMPTIBLE, _UNPREEMPTIBLE = "spin", "spin_nopre"


class I915:
    """The i915 back end."""

    driver = "i915"
    scheduler = False
    # i915_vma_resource_hold() begins a section that lasts while a hung request's buffers are
    # copied, each under error_mutex (i915_gpu_error.c, i915_vma_coredump_create).
    annotation = Annotation(
        "i915_gpu_coredump",
        "&ggtt->error_mutex",
        ("dma_fence_map", "&ggtt->error_mutex"),
        without="the reset itself, where lockdep looks only for allocations under "
        "&gt->reset.mutex (i915_gem_shrinker_taints_mutex)",
        switch="i915.error_capture",
    )

    def engines(
        self, discovered: Sequence[Mapping[str, Any]], card: Mapping[str, Any]
    ) -> list[Engine]:
        found = []
        for engine in discovered:
            name, recipes = str(engine["name"]), list(engine["recipes"])
            if _UNPREEMPTIBLE in recipes:
                recipes.remove(_PREEMPTIBLE)
            # The log names engines as userspace does (intel_engine_user.c).
            slow = bool(engine.get("slow"))
            found.append(Engine(name, name, 0, logged=name, recipes=tuple(recipes), slow=slow))
        return found

    def recipes(self, engine: Engine) -> list[str]:
        return list(engine.recipes)

    def dangerous(self, engine: Engine) -> Mapping[str, str]:
        return {}

    def hang_errors(self) -> frozenset[int]:
        # The guilty one's; that of one that was taken along before it hung by itself, for the
        # first error stays (__i915_request_reset, i915_request_set_error_once); that of one
        # that was cancelled for its age, 20 s by default (intel_gt_watchdog_work).
        return frozenset({-errno.EIO, -errno.EAGAIN, -errno.EINTR})

    def innocent_errors(self) -> frozenset[str]:
        return frozenset({"EAGAIN"})  # that ran when the GPU was reset; the others are run again

    def timeout_s(self, engine: Engine, card: Mapping[str, Any]) -> float | None:
        # A heartbeat behind the hang must be missed at the next one: never sooner than one
        # interval, mostly after two or three.
        text = card.get("engines", {}).get(engine.name, {}).get(_HEARTBEAT, "")
        return int(text) / 1000 if text.isdigit() and int(text) else None

    def haste(self, engine: Engine, card: Mapping[str, Any]) -> tuple[Knob, ...]:
        path = f"/sys/class/drm/{card['name']}/engine/{engine.name}/{_HEARTBEAT}"
        known = _HEARTBEAT in card.get("engines", {}).get(engine.name, {})
        return (Knob(path, str(_HASTE_MS)),) if known else ()

    def no_reset(self, card: Mapping[str, Any]) -> Knob | None:
        return Knob(f"{debugfs(card)}/i915_params/reset", "0")

    def announced(self, scope: str) -> tuple[tuple[str, str], ...]:
        # intel_gt_reset_global(), which resets of single engines do not pass.
        return (("ERROR", "1"), ("RESET", "1"), ("ERROR", "0")) if scope == "gpu" else ()

    def refusal(self, device: Mapping[str, Any]) -> str:
        generation = device.get("generation", 0)
        if generation == 2:
            return "generation 2 has no GPU reset: a hang wedges it for good"
        if not device.get("gpu_reset", 0):
            return f"GPU reset is off on this generation {generation} GPU (i915.reset=0?)"
        return ""

    def unmap_waits(self) -> bool:
        return False  # i915_gem_userptr_invalidate: its pages are pinned instead

    def shrinker(self, card: Mapping[str, Any]) -> Knob | None:
        # DROP_UNBOUND, DROP_BOUND, DROP_SHRINK_ALL, as seen by lockdep within fs_reclaim
        # (i915_debugfs.c, i915_drop_caches_set).
        return Knob(f"{debugfs(card)}/i915_gem_drop_caches", "0x23")

    def manual_reset(self, card: Mapping[str, Any]) -> ManualReset | None:
        # A mask of engines, of which all bits are all; "-1" is no number to newer kernels.
        return ManualReset(f"{debugfs(card)}/i915_wedged", "0xffffffff")

    def coredump(self, card: Mapping[str, Any]) -> Dump | None:
        path = f"/sys/class/drm/{card['name']}/error"
        return Dump("error state", path, empty=i915_error.EMPTY, switch=path)

    def coredump_problems(self, dump: bytes) -> list[str]:
        return i915_error.problems(dump)
