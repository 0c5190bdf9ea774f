"""What each driver prints of a hang and its recovery, over the generations: one row a line.

Wording: drivers/gpu/drm/amd/amdgpu/{amdgpu_job.c,amdgpu_device.c,amdgpu_ring.c,soc15.c},
drivers/gpu/drm/i915/{i915_gpu_error.c,gt/intel_reset.c,gt/uc/intel_guc_submission.c} (i915_irq.c
and i915_drv.c before 4.17), drivers/gpu/drm/drm_drv.c, from 3.x to 7.x; the others' as named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["HINTS", "LINES", "Line", "Scope", "Step", "device_of"]

# "escalated": an engine's reset failed, and the driver goes on to reset all of the GPU.
# "reset-step", "lost" (what the reset wiped), "process", "victim", "banned", "coredump" and
# "fault" tell of a recovery, or of what led to it, without beginning or ending one.
Step = Literal[
    "hang", "soft-recovered", "reset-begin", "reset-done", "escalated", "reset-failed", "wedged",
    "reset-step", "lost", "process", "banned", "coredump", "fault",
]  # fmt: skip
Scope = Literal["engine", "gpu", ""]


@dataclass(frozen=True, slots=True)
class Line:
    """A row: the groups `engine`, `process`, `pid`, `why` of `pattern` are what it may name."""

    step: Step
    driver: str
    scope: Scope
    pattern: re.Pattern[str]


def _line(step: Step, driver: str, scope: Scope, pattern: str) -> Line:
    return Line(step, driver, scope, re.compile(pattern))


_I915 = r"(?:i915\b|\[drm\]).*?"
_IN = r"(?:, in (?P<process>.+?) ?\[(?P<pid>-?\d{1,18})\])?"
_REASON = r"(?P<why>.*?(?:\bon |^)(?P<engine>[a-z]+\d+)\b.*|.*)"

LINES = (
    # amdgpu.  "last signaled" before 4.20; the process had no "information" from 6.16 on.
    _line(
        "soft-recovered", "amdgpu", "engine", r"ring (?P<engine>\S+) timeout, but soft recovered"
    ),
    _line(
        "hang", "amdgpu", "", r"ring (?P<engine>\S+) timeout, (?:last )?signaled seq=\d+"
    ),
    _line(
        "process", "amdgpu", "",
        r" Process (?:information: process )?(?P<process>\S.*?|) ?pid (?P<pid>\d{1,18}) thread ",
    ),
    _line("reset-begin", "amdgpu", "engine", r"Starting (?P<engine>\S+) ring reset"),
    _line("reset-done", "amdgpu", "engine", r"Ring (?P<engine>\S+) reset succeeded"),
    # "failed" in most kernels that reset rings, "failure" in the first
    _line("escalated", "amdgpu", "engine", r"Ring (?P<engine>\S+) reset fail(?:ed|ure)"),
    _line("reset-begin", "amdgpu", "gpu", r"GPU reset begin!"),
    _line(
        "reset-step", "amdgpu", "gpu",
        r"(?:^|: )(?P<why>(?:MODE\d|BACO|PCI|LINK|link)) reset$"
        r"|GPU (?P<how>(?:\w+ )?mode\d) reset(?: failed)?$"
        r"|ASIC reset failed with error, -\d+|Guilty job already signaled, skipping HW reset",
    ),
    _line("reset-done", "amdgpu", "gpu", r"GPU reset\(\d+\) succeeded!"),
    _line(
        "reset-failed", "amdgpu", "gpu",
        r"GPU reset\(\d+\) failed|GPU reset end with ret = (?P<why>-\d+)"
        r"|GPU Recovery Failed: (?P<ret>-\d+)",
    ),
    _line("lost", "amdgpu", "gpu", r"VRAM is lost due to GPU reset!"),
    _line("coredump", "amdgpu", "", r"AMDGPU device coredump file has been created"),
    # -ECANCELED: the context is guilty, and takes no more jobs.
    _line("banned", "amdgpu", "", r"amdgpu_cs_ioctl.*Failed to initialize parser -125!"),
    _line(
        "fault", "amdgpu", "",
        r"\[(?:gfx|mm)hub\d*\](?: no-retry)? page fault \(src_id:|GPU fault detected: \d+ 0x",
    ),
    # i915.  "0x" before the code and "reason:" to 5.1; the engine moves to the reset from 5.3 on.
    _line(
        "hang", "i915", "",
        r"GPU HANG: ecode \d+:(?:[0-9a-f]+:)?(?:0x)?[0-9a-f]{8}" + _IN
        + r"(?:, (?P<why>(?:reason: )?.*?(?:\bon (?P<engine>\w+)(?: ring)?)?"
        r"(?:, action: \w+)?))?$",
    ),
    _line("reset-begin", "i915", "gpu", _I915 + r"Resetting chip (?:for|after) " + _REASON),
    _line(
        "reset-begin", "i915", "engine",
        _I915 + r"Resetting (?P<engine>[a-z]+\d+) (?:for|after) (?P<why>.*)",
    ),
    # Hangcheck's own words, before the error state is captured (3.x to 4.16).
    _line(
        "reset-step", "i915", "",
        r"\[drm(?::\w+(?: \[i915\])?)?\] (?:\*ERROR\* )?stuck on (?P<engine>\w+)",
    ),
    _line("hang", "i915", "", r"Hangcheck timer elapsed\.\.\. GPU hung"),
    _line("escalated", "i915", "engine", r"Engine reset failed on \d+:\d+ \((?P<engine>\w+)\)"),
    _line(
        "reset-step", "i915", "",
        r"(?P<engine>\b[a-z]{1,16}\d{1,4}):? reset request tim(?:ed out|eout)",
    ),
    _line(
        "process", "i915", "",
        r"(?:: |\] |^)(?P<process>[^:\]]{1,64}?)\[(?P<pid>\d{1,18})\] "
        r"context reset due to GPU hang",
    ),
    _line(
        "reset-failed", "i915", "gpu",
        r"Failed to reset chip|Failed to initialise HW following reset|GPU recovery failed"
        r"|Failed hw init on reset",
    ),
    _line("wedged", "i915", "gpu", r"GPU reset not supported|declaring (?:it )?wedged"),
    _line(
        "banned", "i915", "",
        r"(?:gpu|context) hanging too (?:fast|often), banning|banned from creating ctx",
    ),
    _line("coredump", "i915", "", r"GPU crash dump saved to |capturing error event; look for"),
    # Any driver, drm_dev_wedged_event(), 6.15 and later.
    _line("reset-done", "", "", r"device wedged, but recovered through reset"),
    _line("wedged", "", "gpu", r"device wedged, needs recovery"),
    # xe: xe_guc_submit.c, xe_gt.c, xe_devcoredump.c
    _line(
        "hang", "xe", "",
        r"Timedout job: seqno=\d+"
        r"(?:.* in (?:no process|(?P<process>.+?)) \[(?P<pid>-?\d{1,18})\])?",
    ),
    _line("reset-begin", "xe", "gpu", r"(?:xe|GT\d+).*: reset (?:started|queued)"),
    _line("reset-done", "xe", "gpu", r"GT\d+.*: reset done"),
    _line("reset-failed", "xe", "gpu", r"GT\d+.*: reset failed \((?P<why>-\w+)\)"),
    _line("coredump", "xe", "", r"Xe device coredump has been created"),
    # radeon: radeon_fence.c, radeon_ring.c, radeon_device.c
    _line(
        "hang", "radeon", "",
        r"GPU lockup \(.*?(?:on ring (?P<engine>\d+)\)|\))|GPU lockup CP stall",
    ),
    _line("reset-step", "radeon", "", r"ring (?P<engine>\d+) stalled for more than \d+msec"),
    _line("reset-begin", "radeon", "gpu", r"GPU softreset: 0x"),
    _line("reset-failed", "radeon", "gpu", r"radeon.*GPU reset failed"),
    # panfrost_job.c, etnaviv_gpu.c, msm_gpu.c, nouveau's nvkm/engine/fifo
    _line(
        "fault", "panfrost", "",
        r"Unhandled Page fault in AS\d+ at VA|js fault, js=(?P<engine>\d)",
    ),
    _line("fault", "etnaviv", "", r"etnaviv.*MMU fault status 0x"),
    _line("fault", "msm", "", r"\*\*\* gpu fault: "),
    _line("hang", "panfrost", "", r"gpu sched timeout, js=(?P<engine>\d+)"),
    _line("hang", "etnaviv", "gpu", r"etnaviv.*recover hung GPU!"),
    _line(
        "hang", "msm", "",
        r"hangcheck detected gpu lockup (?P<engine>rb \d+)!|gpu fault ring (?P<ring>\d+) fence",
    ),
    _line("reset-begin", "msm", "gpu", r"hangcheck recover!"),
    _line("process", "msm", "", r"offending task: (?P<process>\S+)"),
    _line(
        "hang", "nouveau", "engine",
        r"fifo: SCHED_ERROR \S+ \[(?P<why>CTXSW_TIMEOUT)\]",
    ),
    _line(
        "fault", "nouveau", "engine",
        r"fifo: fault \w+ \[\w+\] at .* engine \w+ \[(?P<engine>\w+)\]",
    ),
    _line(
        "banned", "nouveau", "engine",
        r"channel \d+: killed|(?P<process>\S{1,64})\[(?P<pid>\d{1,18})\]: channel \d+ killed!",
    ),
)  # fmt: skip

# At least one of these is in every line that a row above matches: to look for in bulk.
HINTS = (
    b"timeout, ", b" thread ", b"reset", b"Reset", b"GPU HANG", b"stuck on ", b"Hangcheck timer",
    b"GPU Recovery Failed", b"VRAM is lost", b"coredump", b"parser -125", b" fault",
    b"recovery failed", b"wedged", b"bann", b"crash dump saved", b"capturing error event",
    b"Timedout job", b"GPU lockup", b"msec", b"hung GPU",
    b"hangcheck", b"offending task", b"fifo: ", b"killed",
)  # fmt: skip

# "amdgpu 0000:28:00.0: ..." of dev_printk(); "[drm:foo [amdgpu]]" of DRM_ERROR().
_DEVICE = re.compile(
    r"(?:^|\s)(?P<driver>[a-z]\w+) "
    r"(?P<device>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d|[0-9a-f]+\.[\w-]+): "
)
_MODULE = re.compile(r"\[drm:\w+(?:\.\w+)* \[(?P<driver>\w+)\]\]")


def device_of(text: str) -> tuple[str, str]:
    """(driver, device) that a line names, each "" where it does not."""
    if match := _DEVICE.search(text):
        return match["driver"], match["device"]
    match = _MODULE.search(text)
    return (match["driver"] if match else ""), ""
