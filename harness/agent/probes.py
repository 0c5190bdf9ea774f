"""Probes: which kernel functions are watched, at entry or return, and what they tell.

Those here are of DRM's core and so of every driver; a driver's own are named by the
host.  A function that this kernel lacks is said so, and nothing fails for it.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from .errors import usage

__all__ = ["PROBES", "Probe", "parse"]

# As many threads may be inside a probed function at once and all have their return recorded
# (KRETPROBE_MAXACTIVE_MAX is 4096); those beyond are counted as missed.
_MAX_ACTIVE = 512
# Newer kernels know $argN, x86-64 has always had its registers
# (Documentation/trace/kprobetrace.rst).
_ARGUMENTS = (("$arg1", "$arg2", "$arg3"), ("%di", "%si", "%dx"))


class Probe(NamedTuple):
    """`kind` is p at entry, r at return; `fields` hold the arguments by number."""

    name: str
    kind: str
    function: str
    module: str = ""
    fields: tuple[str, ...] = ()

    def definitions(self, group: str) -> list[str]:
        """Lines for kprobe_events, the first that is taken is meant."""
        function = self.function
        # A module that is built in has a folder for its parameters, but no state.  Named, the
        # probe survives the module's reload.
        if self.module and os.path.exists(f"/sys/module/{self.module}/initstate"):
            function = f"{self.module}:{function}"
        kind = self.kind if self.kind == "p" else f"{self.kind}{_MAX_ACTIVE}"
        told = (" ".join(field.format(*names) for field in self.fields) for names in _ARGUMENTS)
        return [f"{kind}:{group}/{self.name} {function} {fields}".rstrip() for fields in told]


_RETURNED = ("ret=$retval:s32",)
_STATE = ("commit={0}:x64",)

PROBES = (
    # drivers/dma-buf/dma-fence.c: who waits for a fence, how, and with what result.
    Probe(
        "wait_begin",
        "p",
        "dma_fence_wait_timeout",
        fields=("fence={0}:x64", "intr={1}:u8", "timeout={2}:s64"),
    ),
    Probe("wait_end", "r", "dma_fence_wait_timeout", fields=("ret=$retval:s64",)),
    # drivers/gpu/drm/scheduler/sched_main.c: recovery.
    Probe("tdr_begin", "p", "drm_sched_job_timedout", "gpu_sched"),
    Probe("tdr_end", "r", "drm_sched_job_timedout", "gpu_sched"),
    # drivers/gpu/drm/drm_modeset_lock.c: who takes, waits for, or lets go which modeset lock.
    Probe("lock_begin", "p", "drm_modeset_lock", "drm", ("lock={0}:x64",)),
    Probe("lock_end", "r", "drm_modeset_lock", "drm", _RETURNED),
    Probe("unlock", "p", "drm_modeset_unlock", "drm", ("lock={0}:x64",)),
    # drivers/gpu/drm/drm_atomic.c and drm_atomic_helper.c: who waits for an earlier commit, when
    # its own is set up, gets its state, or is carried out; and who says that one is done.
    Probe("setup_begin", "p", "drm_atomic_helper_setup_commit", "drm_kms_helper", _STATE),
    Probe("setup_end", "r", "drm_atomic_helper_setup_commit", "drm_kms_helper", _RETURNED),
    Probe("swap_begin", "p", "drm_atomic_helper_swap_state", "drm_kms_helper", _STATE),
    Probe("swap_end", "r", "drm_atomic_helper_swap_state", "drm_kms_helper", _RETURNED),
    Probe("commit_begin", "p", "drm_crtc_commit_wait", "drm", _STATE),
    Probe("commit_end", "r", "drm_crtc_commit_wait", "drm", _RETURNED),
    Probe("commit_done", "p", "drm_atomic_helper_commit_hw_done", "drm_kms_helper"),
)
"""Of every trace."""

_TEXT = re.compile(r"([pr]):([a-z][a-z_]{0,30}):(\w*):([A-Za-z_][\w.]*)")


def parse(text: str) -> Probe:
    """`p:NAME:MODULE:FUNCTION`, or r for its return; MODULE is empty for the kernel's own.

    Raises AgentError (usage).
    """
    match = _TEXT.fullmatch(text)
    if match is None or match[2] in {probe.name for probe in PROBES}:
        raise usage(f"{text!r} is no probe", cure="p:NAME:MODULE:FUNCTION, or r; NAME is not ours")
    return Probe(match[2], match[1], match[4], match[3])
