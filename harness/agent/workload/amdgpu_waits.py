"""Ways to wait for an amdgpu job: amdgpu's three, with absolute timeouts, and everybody's.

The first two tell their caller the fence's error (amdgpu_cs.c, amdgpu_cs_wait_ioctl and
amdgpu_cs_wait_fences_ioctl), the third does not (amdgpu_gem.c, amdgpu_gem_wait_idle_ioctl).
"""

from __future__ import annotations

import contextlib
import ctypes as c

from ..uapi import amdgpu as abi
from ..uapi.ioc import attempt
from .amdgpu_device import Device
from .amdgpu_job import Submitted
from .fence_waits import buffer_waits, fence_waits
from .waiters import Wait

__all__ = ["shared_waits", "waits"]


def waits(device: Device, submitted: Submitted, means: contextlib.ExitStack) -> list[Wait]:
    """For a hang of this device's; what they need goes with `means`.  Raises AgentError."""
    job = submitted.job

    def wait_cs(until: int) -> int:
        request = abi.AmdgpuWaitCs()
        asked = getattr(request, "in")
        asked.handle, asked.timeout = job.sequence, until
        asked.ip_type, asked.ring, asked.ctx_id = job.engine.ip_type, job.ring, job.context
        result = attempt(device.fd, abi.WAIT_CS, request)
        return result if result < 0 else 1 - int(request.out.status)

    def wait_fences(wait_all: int, until: int) -> int:
        fence = abi.AmdgpuFence(
            ctx_id=job.context, ip_type=job.engine.ip_type, ring=job.ring, seq_no=job.sequence
        )
        request = abi.AmdgpuWaitFences()
        asked = getattr(request, "in")
        asked.fences, asked.fence_count = c.addressof(fence), 1
        asked.wait_all, asked.timeout_ns = wait_all, until
        result = attempt(device.fd, abi.WAIT_FENCES, request)
        return result if result < 0 else int(request.out.status)

    return [
        Wait("WAIT_CS", wait_cs),
        Wait("WAIT_FENCES all", lambda until: wait_fences(1, until)),
        Wait("WAIT_FENCES any", lambda until: wait_fences(0, until)),
        *fence_waits(device.fd, submitted.fence.fd, means),
        *shared_waits(device, submitted.buffer, means),
        *(submitted.page.waits() if submitted.page else []),
    ]


def shared_waits(device: Device, handle: int, means: contextlib.ExitStack) -> list[Wait]:
    """For all who use a buffer.  Raises AgentError."""

    def wait_idle(until: int) -> int:
        request = abi.AmdgpuGemWaitIdle()
        asked = getattr(request, "in")
        asked.handle, asked.timeout = handle, until
        result = attempt(device.fd, abi.GEM_WAIT_IDLE, request)
        return result if result < 0 else 1 - int(request.out.status)

    return [Wait("GEM_WAIT_IDLE", wait_idle), *buffer_waits(device.fd, handle, means)]
