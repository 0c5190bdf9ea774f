"""amdgpu: rings, hang recipes, and what its recovery leaves behind.

Facts: drivers/gpu/drm/amd/amdgpu/{amdgpu_drv.c,amdgpu_debugfs.c,amdgpu_job.c,
amdgpu_ctx.c} of Linux 6.12 and include/uapi/drm/amdgpu_drm.h.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from harness.gpu import amdgpu_coredump
from harness.gpu.base import Annotation, Dump, Engine, Knob, ManualReset, debugfs

__all__ = ["Amdgpu"]

# amdgpu.lockup_timeout: "GFX,Compute,SDMA,Video" in ms; a single value is for all but compute
# on bare metal (amdgpu_device_get_job_timeout_settings).  0 means the default.
_DEFAULT_MS = {"gfx": 10_000, "compute": 60_000, "sdma": 10_000}
_ORDER = ("gfx", "compute", "sdma")

# Families whose reset the driver does not enable (amdgpu_drm.h, AMDGPU_FAMILY_*); Raven counts
# up to Picasso and Raven2, which Renoir's external revisions follow (0x91 on).
_NO_RESET = {110: "SI", 125: "KV", 135: "CZ"}
_RAVEN, _RENOIR_REVISION = 142, 0x91


class Amdgpu:
    """The amdgpu back end."""

    driver = "amdgpu"
    scheduler = True
    # tools/kernel/patches/0001; its first lock is job_list_lock (sched_main.c).
    annotation = Annotation(
        "drm_sched_job_timedout",
        "&sched->job_list_lock",
        (
            "(work_completion)(&(&sched->work_tdr)->work)",
            "dma_fence_map",
            "&sched->job_list_lock",
        ),
        switch="gpu_sched.tdr_annotation, of tools/kernel/patches/0001-*.patch",
    )

    def engines(
        self, discovered: Sequence[Mapping[str, Any]], card: Mapping[str, Any]
    ) -> list[Engine]:
        found = []
        for ip in discovered:
            name, available = str(ip["name"]), int(ip["available_rings"])
            hardware = [n for n in range(available.bit_length()) if available >> n & 1]
            for index in hardware:
                label = name if len(hardware) == 1 else f"{name}{index}"
                # A job names one of its context's entities, which the scheduler spreads over
                # the rings; only the mask keeps it on this one (amdgpu_ctx.c, amdgpu_debugfs.c).
                entity = ip["rings"][index % len(ip["rings"])]
                mask = Knob(f"{debugfs(card)}/amdgpu_{name}_sched_mask", hex(1 << index))
                found.append(Engine(label, name, entity, pins=(mask,) if len(hardware) > 1 else ()))
        return found

    def recipes(self, engine: Engine) -> list[str]:
        if engine.ip == "sdma":
            return ["poll_regmem", "illegal_opcode", "bad_sdma_header"]
        return ["wait_reg_mem", "illegal_opcode", "bad_length"]

    def dangerous(self, engine: Engine) -> Mapping[str, str]:
        if engine.ip == "sdma":
            return {}
        return {
            "illegal_register": "it writes the page table base of the kernel's own address space",
            "illegal_memory": "without amdgpu.vm_fault_stop=2 its faults come without an end",
        }

    def hang_errors(self) -> frozenset[int]:
        # full reset; the same for jobs that were in flight beside it; soft recovery
        return frozenset({-errno.ETIME, -errno.ECANCELED, -errno.ENODATA})

    def innocent_errors(self) -> frozenset[str]:
        # amdgpu_fence_driver_force_completion(); soft recovery of a ring with two jobs on it
        return frozenset({"ECANCELED", "ENODATA"})

    def timeout_s(self, engine: Engine, card: Mapping[str, Any]) -> float | None:
        parameters = (card.get("module") or {}).get("parameters", {})
        text = str(parameters.get("lockup_timeout", "")).strip()
        try:
            given = [int(part) for part in text.split(",") if part.strip()]
        except ValueError:
            return None
        index = _ORDER.index(engine.ip) if engine.ip in _ORDER else 0
        default = _DEFAULT_MS.get(engine.ip, 10_000)
        if not given:
            milliseconds = default
        elif len(given) == 1:
            # amdgpu splits the parameter in place, so of a list sysfs shows the first value
            # alone: what the others are cannot be told (amdgpu_device.c, strsep).
            if engine.ip != "gfx":
                return None
            milliseconds = given[0]
        else:
            milliseconds = given[index] if index < len(given) else default
        if milliseconds < 0:
            return None
        return (milliseconds or default) / 1000

    def haste(self, engine: Engine, card: Mapping[str, Any]) -> tuple[Knob, ...]:
        return ()  # lockup_timeout is read-only

    def no_reset(self, card: Mapping[str, Any]) -> Knob | None:
        return None  # gpu_recovery is read-only

    def announced(self, scope: str) -> tuple[tuple[str, str], ...]:
        return ()  # WEDGED=none came with 6.15 (drm_dev_wedged_event)

    def refusal(self, device: Mapping[str, Any]) -> str:
        family = device.get("family", 0)
        name = _NO_RESET.get(family, "")
        if family == _RAVEN and device.get("external_rev", 0) < _RENOIR_REVISION:
            name = "Raven"
        return f"GPU reset is not enabled for this ASIC (family {name})" if name else ""

    def unmap_waits(self) -> bool:
        return True  # amdgpu_hmm_invalidate_gfx

    def shrinker(self, card: Mapping[str, Any]) -> Knob | None:
        return None  # none of its own: the pool of free pages is TTM's

    def manual_reset(self, card: Mapping[str, Any]) -> ManualReset | None:
        return ManualReset(f"{debugfs(card)}/amdgpu_gpu_recover")

    def coredump(self, card: Mapping[str, Any]) -> Dump | None:
        path = f"/sys/class/drm/{card['name']}/device/devcoredump/data"
        return Dump("devcoredump", path, switch="/sys/class/devcoredump/disabled", off=b"1")

    def coredump_problems(self, dump: bytes) -> list[str]:
        return amdgpu_coredump.problems(dump)
