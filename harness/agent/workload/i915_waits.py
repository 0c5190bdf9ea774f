"""Ways to wait for an i915 job: i915's three, none of which tells of an error, and everybody's.

GEM_WAIT has a relative timeout, of which it writes back what is left, so that a restart goes on
with that (i915_gem_wait.c); SET_DOMAIN and THROTTLE have none (i915_gem_domain.c,
i915_gem_throttle.c).
"""

from __future__ import annotations

import contextlib
import time

from ..uapi import i915 as abi
from ..uapi.ioc import attempt
from .fence_waits import buffer_waits, fence_waits, ready
from .i915_device import Device
from .i915_job import Submitted
from .waiters import Wait

__all__ = ["shared_waits", "waits"]

# THROTTLE looks only at what is older than 20 ms (DRM_I915_THROTTLE_JIFFIES).
_OLD_NS = 60_000_000


def waits(submitted: Submitted, means: contextlib.ExitStack) -> list[Wait]:
    """For a hang; what they need goes with `means`.  Raises AgentError."""
    device, handle = submitted.context.device, submitted.job.buffer.handle

    def set_domain(_until: int) -> int:
        domain = submitted.job.buffer.domain
        asked = abi.I915GemSetDomain(handle=handle, read_domains=domain, write_domain=domain)
        return ready(attempt(device.fd, abi.GEM_SET_DOMAIN, asked))

    def throttle(_until: int) -> int:
        young = submitted.at + _OLD_NS - time.monotonic_ns()
        if young > 0:
            time.sleep(young / 1e9)
        return ready(attempt(device.fd, abi.GEM_THROTTLE, None))

    # A discrete GPU has no domains to set.
    domains = [Wait("SET_DOMAIN", set_domain, timed=False)] if submitted.job.buffer.domain else []
    return [
        *shared_waits(device, handle, means),
        *domains,
        # It waits with the context's engines locked.
        Wait("THROTTLE", throttle, timed=False, alone=True),
        *fence_waits(device.fd, submitted.fence.fd, means),
        *(submitted.page.waits() if submitted.page else []),
    ]


def shared_waits(device: Device, handle: int, means: contextlib.ExitStack) -> list[Wait]:
    """For all who use a buffer.  Raises AgentError."""

    def gem_wait(until: int) -> int:
        left = max(0, until - time.monotonic_ns())
        asked = abi.I915GemWait(bo_handle=handle, timeout_ns=left)
        return ready(attempt(device.fd, abi.GEM_WAIT, asked))

    return [Wait("GEM_WAIT", gem_wait), *buffer_waits(device.fd, handle, means)]
