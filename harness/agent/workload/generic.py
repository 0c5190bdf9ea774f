"""The generic workload: fences without a GPU.  sw_sync's timelines, vgem's buffers, sync files.

On any machine whose kernel has them; it hangs nothing.  Fences, buffers and vgem's fences are
known by numbers of this process's own.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import time
from collections.abc import Mapping
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import usage
from ..uapi import dmabuf, drm, kms, swsync, syncfile, vgem
from ..uapi.ioc import attempt, perform
from . import churn, parcel
from .fence import Fence
from .fence_waits import poll
from .node import open_node
from .syncobjs import Syncobjs

__all__ = ["GenericWorkload", "open_workload"]

_PIXELS = 1024
_POLLIN, _POLLOUT = 1, 4


class GenericWorkload:
    """Operations; see the methods' docstrings for the wire."""

    overtaking: frozenset[str] = frozenset({"churn.stop"})

    def __init__(self, node: int, timeline: int, gpu: int = -1) -> None:
        """Open nodes of vgem's and of a GPU's, and an open sw_sync, each -1 where there is none."""
        syncobjs = Syncobjs(gpu, self._fence, self._new_fence)
        self._node = node
        self._timeline = timeline
        self._fences: list[Fence] = []
        self._buffers: list[tuple[int, int]] = []  # vgem's handle, dma-buf
        self._inbox: parcel.Inbox | None = None
        self._churn = churn.Churn()
        self._operations: Mapping[str, Callable[[Arguments], dict[str, Any]]] = {
            "timeline.fence": self.timeline_fence,
            "timeline.advance": self.timeline_advance,
            "timeline.close": self.timeline_close,
            "fence.merge": self.merge,
            "fence.info": self.info,
            "fence.wait": self.wait,
            "buffer": self.buffer,
            "syncobj": syncobjs.create,
            "syncobj.insert": syncobjs.insert,
            "syncobj.extract": syncobjs.extract,
            "syncobj.query": syncobjs.query,
            "syncobj.signal": syncobjs.signal,
            "syncobj.wait": syncobjs.wait,
            "inbox": self.inbox,
            "adopt": self.adopt,
            "share": self.share,
            "buffer.attach": self.attach,
            "buffer.signal": self.signal,
            "buffer.export": self.export,
            "buffer.import": self.import_fence,
            "buffer.wait": self.buffer_wait,
            "churn": self._churn.perform,
            "churn.stop": self._churn.stop,
        }

    def perform(self, op: str, arguments: Arguments) -> dict[str, Any]:
        """As process.Workload says."""
        operation = self._operations.get(op)
        if operation is None:
            known = ", ".join(self._operations)
            raise usage(f"generic has no operation {op}", cure=f"one of: {known}")
        return operation(arguments)

    def release_all(self) -> None:
        """As process.Workload says: the kernel ends what is pending with the descriptors."""
        self._churn.end()

    # -- sw_sync -----------------------------------------------------------------

    def timeline_fence(self, arguments: Arguments) -> dict[str, Any]:
        """{value} -> {"fence"}: one that signals when the timeline has reached that."""
        asked = swsync.SwSyncCreateFence(value=arguments.integer("value"), name=b"lab")
        arguments.done()
        perform(self._sw_sync(), swsync.CREATE_FENCE, asked)
        return self._new_fence(asked.fence)

    def timeline_advance(self, arguments: Arguments) -> dict[str, Any]:
        """{by} -> {}."""
        steps = c.c_uint32(arguments.integer("by"))
        arguments.done()
        perform(self._sw_sync(), swsync.INC, steps)
        return {}

    def timeline_close(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {}: with the file the timeline goes, and what is pending on it ends."""
        arguments.done()
        os.close(self._sw_sync())
        self._timeline = -1
        return {}

    # -- sync files --------------------------------------------------------------

    def merge(self, arguments: Arguments) -> dict[str, Any]:
        """{first, second: fences} -> {"fence"}: one that signals when both have."""
        first, second = self._fence(arguments, "first"), self._fence(arguments, "second")
        arguments.done()
        asked = syncfile.SyncMergeData(name=b"lab", fd2=second.fd)
        perform(first.fd, syncfile.SYNC_IOC_MERGE, asked)
        return self._new_fence(asked.fence)

    def info(self, arguments: Arguments) -> dict[str, Any]:
        """{fence} -> as Fence.info."""
        fence = self._fence(arguments, "fence")
        arguments.done()
        return fence.info()

    def wait(self, arguments: Arguments) -> dict[str, Any]:
        """{fence, timeout_ns} -> {"signaled"}: by poll(2)."""
        fence, timeout = self._fence(arguments, "fence"), arguments.integer("timeout_ns")
        arguments.done()
        return {"signaled": fence.wait(timeout)}

    # -- buffers -----------------------------------------------------------------

    def buffer(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"buffer"}: a page of vgem's."""
        arguments.done()
        made = kms.DrmModeCreateDumb(width=_PIXELS, height=1, bpp=32)
        perform(self._vgem(), kms.CREATE_DUMB, made)
        handle = int(made.handle)
        return self._new_buffer(handle, parcel.export(self._node, handle))

    def inbox(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"address"}: where another workload may send a buffer to."""
        arguments.done()
        self._inbox = self._inbox or parcel.Inbox()
        return {"address": self._inbox.address}

    def adopt(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"buffer"}: the buffer that was sent, imported into vgem."""
        arguments.done()
        if self._inbox is None:
            raise usage("nobody knows where to send a buffer", cure="ask for the inbox first")
        request = drm.DrmPrimeHandle(fd=self._inbox.receive(parcel.SECONDS))
        perform(self._vgem(), drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, request)
        return self._new_buffer(int(request.handle), int(request.fd))

    def share(self, arguments: Arguments) -> dict[str, Any]:
        """{buffer, to: address} -> {}: send it to the inbox of another workload."""
        _, shared = self._buffer(arguments)
        address = arguments.text("to")
        arguments.done()
        parcel.send(shared, address)
        return {}

    def attach(self, arguments: Arguments) -> dict[str, Any]:
        """{buffer, write = false} -> {"attached", "errname", "began_ns"}: a fence of vgem's on it,
        or why not: EBUSY while there is another that it conflicts with."""
        handle, _ = self._buffer(arguments)
        flags = vgem.FENCE_WRITE if arguments.flag("write") else 0
        arguments.done()
        asked = vgem.DrmVgemFenceAttach(handle=handle, flags=flags)
        began = time.monotonic_ns()
        result = attempt(self._vgem(), vgem.FENCE_ATTACH, asked)
        return {"attached": asked.out_fence, "errname": _name(result), "began_ns": began}

    def signal(self, arguments: Arguments) -> dict[str, Any]:
        """{attached} -> {"errname"}: signal it; ETIMEDOUT when its time was over before."""
        asked = vgem.DrmVgemFenceSignal(fence=arguments.integer("attached"))
        arguments.done()
        return {"errname": _name(attempt(self._vgem(), vgem.FENCE_SIGNAL, asked))}

    def export(self, arguments: Arguments) -> dict[str, Any]:
        """{buffer, write = false} -> {"fence"}: what who reads, or writes, must wait for."""
        _, shared = self._buffer(arguments)
        asked = dmabuf.DmaBufExportSyncFile(flags=_access(arguments))
        arguments.done()
        perform(shared, dmabuf.DMA_BUF_IOCTL_EXPORT_SYNC_FILE, asked)
        return self._new_fence(asked.fd)

    def import_fence(self, arguments: Arguments) -> dict[str, Any]:
        """{buffer, fence, write = false} -> {}: a reader's fence on it, or a writer's."""
        _, shared = self._buffer(arguments)
        fence = self._fence(arguments, "fence")
        asked = dmabuf.DmaBufImportSyncFile(flags=_access(arguments), fd=fence.fd)
        arguments.done()
        perform(shared, dmabuf.DMA_BUF_IOCTL_IMPORT_SYNC_FILE, asked)
        return {}

    def buffer_wait(self, arguments: Arguments) -> dict[str, Any]:
        """{buffer, timeout_ns, write = false} -> {"ready"}: by poll(2), for who reads or writes."""
        _, shared = self._buffer(arguments)
        events = _POLLOUT if arguments.flag("write") else _POLLIN
        until = time.monotonic_ns() + arguments.integer("timeout_ns")
        arguments.done()
        call, result = poll(shared, events), -errno.EINTR
        while result == -errno.EINTR:
            result = call(until)
        return {"ready": result == 1}

    # -- inside ------------------------------------------------------------------

    def _sw_sync(self) -> int:
        if self._timeline < 0:
            raise usage("no timeline", cure=f"pass {swsync.PATH}, and close it once")
        return self._timeline

    def _vgem(self) -> int:
        if self._node < 0:
            raise usage("no vgem", cure="pass primary: the node of vgem's card")
        return self._node

    def _new_fence(self, fd: int) -> dict[str, Any]:
        self._fences.append(Fence(fd))
        return {"fence": len(self._fences)}

    def _new_buffer(self, handle: int, shared: int) -> dict[str, Any]:
        self._buffers.append((handle, shared))
        return {"buffer": len(self._buffers)}

    def _fence(self, arguments: Arguments, name: str) -> Fence:
        number: int = arguments.integer(name)
        if not 0 < number <= len(self._fences):
            raise usage(f"no fence {number}", cure="see what made it returned")
        return self._fences[number - 1]

    def _buffer(self, arguments: Arguments) -> tuple[int, int]:
        number: int = arguments.integer("buffer")
        if not 0 < number <= len(self._buffers):
            raise usage(f"no buffer {number}", cure="see what buffer or adopt returned")
        return self._buffers[number - 1]


def _access(arguments: Arguments) -> int:
    return dmabuf.SYNC_WRITE if arguments.flag("write") else dmabuf.SYNC_READ


def _name(result: int) -> str:
    return "" if result >= 0 else errno.errorcode.get(-result, str(-result))


def open_workload(
    node: str, primary: str, bailout: float, passed: Mapping[str, int]
) -> GenericWorkload:
    """`primary` is vgem's node, `node` that of a GPU with syncobjs, `passed` has an open sw_sync;
    each may be missing.  Raises AgentError."""
    opened = -1
    if primary:
        opened = open_node(primary)
        name = c.create_string_buffer(64)
        request = drm.DrmVersion(name_len=len(name), name=c.addressof(name))
        perform(opened, drm.DRM_IOCTL_VERSION, request)
        if name.value != b"vgem":
            raise usage(f"{primary} is {name.value!r}", cure="pass the node of vgem's card")
    gpu = open_node(node) if node else -1
    return GenericWorkload(opened, passed.get(swsync.PATH, -1), gpu)
