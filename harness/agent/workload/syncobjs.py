"""Syncobjs and their timelines: points that fences, or the CPU, let a timeline reach.

Of any DRM node whose driver has them (DRIVER_SYNCOBJ, DRIVER_SYNCOBJ_TIMELINE); drm_syncobj.c.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import time
from collections.abc import Iterator
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import usage
from ..uapi import drm
from ..uapi.ioc import attempt, perform
from .fence import Fence

__all__ = ["Syncobjs"]


class Syncobjs:
    """A node's; fences come and go by the numbers of `find` and `keep`."""

    def __init__(
        self,
        node: int,
        find: Callable[[Arguments, str], Fence],
        keep: Callable[[int], dict[str, Any]],
    ) -> None:
        """`node` is open, or -1 for none."""
        self._node = node
        self._find = find
        self._keep = keep

    def create(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"syncobj"}: one without a fence."""
        arguments.done()
        return {"syncobj": self._new()}

    def insert(self, arguments: Arguments) -> dict[str, Any]:
        """{syncobj, point, fence} -> {}: `point` is reached when the fence has signalled, and all
        points before it are."""
        syncobj, point = arguments.integer("syncobj"), arguments.integer("point")
        fence = self._find(arguments, "fence")
        arguments.done()
        with self._binary() as binary:
            request = drm.DrmSyncobjHandle(
                handle=binary, flags=drm.SYNCOBJ_IMPORT_SYNC_FILE, fd=fence.fd
            )
            perform(self._node, drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, request)
            self._transfer(binary, 0, syncobj, point)
        return {}

    def extract(self, arguments: Arguments) -> dict[str, Any]:
        """{syncobj, point} -> {"fence"}: one that signals when that is reached."""
        syncobj, point = arguments.integer("syncobj"), arguments.integer("point")
        arguments.done()
        with self._binary() as binary:
            self._transfer(syncobj, point, binary, 0)
            request = drm.DrmSyncobjHandle(handle=binary, flags=drm.SYNCOBJ_EXPORT_SYNC_FILE, fd=-1)
            perform(self._node, drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, request)
        return self._keep(int(request.fd))

    def query(self, arguments: Arguments) -> dict[str, Any]:
        """{syncobj} -> {"point"}: the last that is reached."""
        handles = (c.c_uint32 * 1)(arguments.integer("syncobj"))
        points = (c.c_uint64 * 1)()
        arguments.done()
        perform(self._opened(), drm.DRM_IOCTL_SYNCOBJ_QUERY, _array(handles, points))
        return {"point": int(points[0])}

    def signal(self, arguments: Arguments) -> dict[str, Any]:
        """{syncobj, point} -> {}: the CPU's own part of a point is done."""
        handles = (c.c_uint32 * 1)(arguments.integer("syncobj"))
        points = (c.c_uint64 * 1)(arguments.integer("point"))
        arguments.done()
        perform(self._opened(), drm.DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, _array(handles, points))
        return {}

    def wait(self, arguments: Arguments) -> dict[str, Any]:
        """{syncobj, point, timeout_ns, unborn = false} -> {"errname"}: "" when it was reached in
        time; `unborn`: wait also for a point that has no fence yet."""
        handles = (c.c_uint32 * 1)(arguments.integer("syncobj"))
        points = (c.c_uint64 * 1)(arguments.integer("point"))
        until = time.monotonic_ns() + arguments.integer("timeout_ns")
        unborn = arguments.flag("unborn")
        arguments.done()
        asked = drm.DrmSyncobjTimelineWait(
            handles=c.addressof(handles),
            points=c.addressof(points),
            count_handles=1,
            timeout_nsec=until,
            flags=drm.SYNCOBJ_WAIT_FOR_SUBMIT if unborn else 0,
        )
        result = -errno.EINTR
        while result == -errno.EINTR:
            result = attempt(self._opened(), drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, asked)
        return {"errname": "" if result >= 0 else errno.errorcode.get(-result, str(-result))}

    def _opened(self) -> int:
        if self._node < 0:
            raise usage("no node with syncobjs", cure="pass node: a GPU's render node")
        return self._node

    def _new(self) -> int:
        request = drm.DrmSyncobjCreate()
        perform(self._opened(), drm.DRM_IOCTL_SYNCOBJ_CREATE, request)
        return int(request.handle)

    @contextlib.contextmanager
    def _binary(self) -> Iterator[int]:
        """A syncobj for one fence, for a moment."""
        handle = self._new()
        try:
            yield handle
        finally:
            gone = drm.DrmSyncobjDestroy(handle=handle)
            perform(self._node, drm.DRM_IOCTL_SYNCOBJ_DESTROY, gone)

    def _transfer(self, source: int, source_point: int, target: int, target_point: int) -> None:
        request = drm.DrmSyncobjTransfer(
            src_handle=source, src_point=source_point, dst_handle=target, dst_point=target_point
        )
        perform(self._node, drm.DRM_IOCTL_SYNCOBJ_TRANSFER, request)


def _array(handles: Any, points: Any) -> drm.DrmSyncobjTimelineArray:
    return drm.DrmSyncobjTimelineArray(
        handles=c.addressof(handles), points=c.addressof(points), count_handles=len(handles)
    )
