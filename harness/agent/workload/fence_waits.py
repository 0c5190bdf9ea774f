"""Ways to wait that every driver has: for a fence in a sync file, for the fences of a buffer.

Whatever a driver's own waits are like, these are DRM's and the dma-buf layer's:
drivers/gpu/drm/drm_syncobj.c, drivers/dma-buf/{sync_file.c,dma-buf.c}.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
import time
from typing import Callable

from ..errors import AgentError
from ..uapi import dmabuf, drm
from ..uapi.ioc import attempt, perform
from .parcel import export
from .waiters import Wait

__all__ = ["buffer_waits", "fence_waits", "poll", "ready"]

_POLLIN, _POLLOUT = 1, 4


class _PollFd(c.Structure):
    """poll(2)'s."""

    _fields_ = [("fd", c.c_int), ("events", c.c_short), ("revents", c.c_short)]


_libc = c.CDLL(None, use_errno=True)
_libc.poll.argtypes = [c.POINTER(_PollFd), c.c_ulong, c.c_int]


def ready(result: int, late: int = -errno.ETIME) -> int:
    """What `Wait.call` returns of an ioctl that has `late` for what did not come in time."""
    return 0 if result == late else 1 if result >= 0 else result


def poll(fd: int, events: int) -> Callable[[int], int]:
    """poll(2), once: Python's own would ask again after EINTR."""

    def call(until: int) -> int:
        asked = _PollFd(fd=fd, events=events)
        # It counts in ms: one more, so as never to be early.
        left = max(0, until - time.monotonic_ns()) // 1_000_000 + 1
        found = int(_libc.poll(c.byref(asked), 1, min(left, 2**31 - 1)))
        if found < 0:
            return -c.get_errno()
        return 1 if asked.revents & events else 0

    return call


def fence_waits(node: int, fence: int, means: contextlib.ExitStack) -> list[Wait]:
    """For the sync file `fence`; `node` is an open DRM node.  Raises AgentError."""
    waits = [Wait("sync_file poll", poll(fence, _POLLIN), restarts=False)]
    with contextlib.suppress(AgentError):  # a driver without syncobjs
        binary = _syncobj(node, means)
        request = drm.DrmSyncobjHandle(handle=binary, flags=drm.SYNCOBJ_IMPORT_SYNC_FILE, fd=fence)
        perform(node, drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, request)
        waits.append(Wait("SYNCOBJ_WAIT", _syncobj_wait(node, binary)))
        timeline = _syncobj(node, means)
        moved = drm.DrmSyncobjTransfer(src_handle=binary, dst_handle=timeline, dst_point=1)
        perform(node, drm.DRM_IOCTL_SYNCOBJ_TRANSFER, moved)
        waits.append(Wait("SYNCOBJ_TIMELINE_WAIT", _timeline_wait(node, timeline, 1)))
    return waits


def buffer_waits(node: int, handle: int, means: contextlib.ExitStack) -> list[Wait]:
    """For all who use a buffer of the open DRM node `node`.  Raises AgentError."""
    shared = export(node, handle)
    means.callback(os.close, shared)

    def sync(_until: int) -> int:
        flags = dmabuf.SYNC_START | dmabuf.SYNC_READ | dmabuf.SYNC_WRITE
        asked = dmabuf.DmaBufSync(flags=flags)
        # "Must be restarted" on both (drivers/dma-buf/dma-buf.c, DOC: cpu access): who waits for
        # a lock that i915 waits with gets EINTR, whatever SA_RESTART says.
        result = -errno.EINTR
        while result in (-errno.EINTR, -errno.EAGAIN):
            result = attempt(shared, dmabuf.DMA_BUF_IOCTL_SYNC, asked)
        return ready(result)

    return [
        Wait("dma-buf poll", poll(shared, _POLLOUT), restarts=False),
        # i915 waits with the buffer's lock held, which would keep others from waiting
        # (i915_gem_dmabuf.c, i915_gem_begin_cpu_access).
        Wait("DMA_BUF_IOCTL_SYNC", sync, timed=False, alone=True),
    ]


def _syncobj(node: int, means: contextlib.ExitStack) -> int:
    request = drm.DrmSyncobjCreate()
    perform(node, drm.DRM_IOCTL_SYNCOBJ_CREATE, request)
    gone = drm.DrmSyncobjDestroy(handle=request.handle)
    means.callback(perform, node, drm.DRM_IOCTL_SYNCOBJ_DESTROY, gone)
    return int(request.handle)


def _syncobj_wait(node: int, syncobj: int) -> Callable[[int], int]:
    def call(until: int) -> int:
        handles = (c.c_uint32 * 1)(syncobj)
        asked = drm.DrmSyncobjWait(
            handles=c.addressof(handles), count_handles=1, timeout_nsec=until
        )
        return ready(attempt(node, drm.DRM_IOCTL_SYNCOBJ_WAIT, asked))

    return call


def _timeline_wait(node: int, syncobj: int, point: int) -> Callable[[int], int]:
    def call(until: int) -> int:
        handles, points = (c.c_uint32 * 1)(syncobj), (c.c_uint64 * 1)(point)
        asked = drm.DrmSyncobjTimelineWait(
            handles=c.addressof(handles),
            points=c.addressof(points),
            count_handles=1,
            timeout_nsec=until,
        )
        return ready(attempt(node, drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, asked))

    return call
