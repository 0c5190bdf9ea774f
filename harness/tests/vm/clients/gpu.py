"""What the clients that run on the target share: an open GPU, buffers of any origin, jobs."""

from __future__ import annotations

import ctypes as c
import os
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from harness.agent.errors import AgentError
from harness.agent.uapi import amdgpu as abi
from harness.agent.uapi import drm
from harness.agent.uapi.ioc import perform
from harness.agent.workload.amdgpu_device import Buffer, Device, Job
from harness.agent.workload.amdgpu_packets import RECIPES, pad, store
from harness.agent.workload.fence import Fence

__all__ = ["PAGE", "Gpu", "close", "exported", "imported", "main", "refused"]

PAGE = 4096
_POLLED = 1024  # of a hang's own buffer, in bytes


class Gpu:
    """A render node with a context, which submits to gfx."""

    def __init__(self, node: str) -> None:
        self.device = Device(node)
        self.fd = self.device.fd
        self._context = self.device.context()
        self._engine = self.device.engine("gfx", 0)
        self._address = 1 << 32

    def map(self, handle: int, size: int = PAGE) -> int:
        """Where the GPU sees it from now on."""
        address, self._address = self._address, self._address + (1 << 24)
        place = abi.AmdgpuGemVa(
            handle=handle,
            operation=abi.VA_OP_MAP,
            flags=abi.VM_PAGE_READABLE | abi.VM_PAGE_WRITEABLE,
            va_address=address,
            map_size=size,
        )
        perform(self.fd, abi.GEM_VA, place)
        return address

    def store(self, address: int, value: int, uses: Sequence[int]) -> Fence:
        """A job that writes `value` there; `uses` are the handles it names beside its own."""
        return self._submit(self.device.buffer(), store("gfx", address, value, True), uses)

    def hang(self, uses: Sequence[int]) -> tuple[Fence, Callable[[], None]]:
        """A job that waits until recovery, or until what comes second is called."""
        buffer = self.device.buffer()
        dwords = RECIPES["wait_reg_mem"].build("gfx", buffer.address + _POLLED, 0)
        fence = self._submit(buffer, dwords, uses)
        return fence, lambda: struct.pack_into("<I", buffer.memory, _POLLED, 1)

    def _submit(self, buffer: Buffer, dwords: list[int], uses: Sequence[int]) -> Fence:
        dwords = pad("gfx", dwords, 16)
        struct.pack_into(f"<{len(dwords)}I", buffer.memory, 0, *dwords)
        entries = (abi.AmdgpuBoListEntry * (1 + len(uses)))()
        for entry, handle in zip(entries, (buffer.handle, *uses), strict=True):
            entry.bo_handle = handle
        handles = abi.AmdgpuBoListIn(
            bo_number=len(entries),
            bo_info_size=c.sizeof(entries[0]),
            bo_info_ptr=c.addressof(entries),
        )
        commands = abi.AmdgpuCsChunkIb(va_start=buffer.address, ib_bytes=4 * len(dwords))
        chunks = (abi.AmdgpuCsChunk * 2)()
        pointers = (c.c_uint64 * 2)()
        parts: list[Any] = [(abi.CHUNK_ID_BO_HANDLES, handles), (abi.CHUNK_ID_IB, commands)]
        for index, (kind, data) in enumerate(parts):
            chunks[index].chunk_id = kind
            chunks[index].length_dw = c.sizeof(data) // 4
            chunks[index].chunk_data = c.addressof(data)
            pointers[index] = c.addressof(chunks[index])
        request = abi.AmdgpuCs()
        into = getattr(request, "in")
        into.ctx_id, into.num_chunks, into.chunks = self._context, 2, c.addressof(pointers)
        perform(self.fd, abi.CS, request)
        return self.device.fence(Job(self._context, self._engine, 0, int(request.out.handle)))


def exported(fd: int, handle: int) -> int:
    """A buffer's dma-buf."""
    asked = drm.DrmPrimeHandle(handle=handle, flags=drm.PRIME_RDWR)
    perform(fd, drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, asked)
    return int(asked.fd)


def imported(fd: int, dmabuf: int) -> int:
    """A dma-buf's handle."""
    asked = drm.DrmPrimeHandle(fd=dmabuf)
    perform(fd, drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, asked)
    return int(asked.handle)


def close(fd: int, handle: int) -> None:
    """Forget a handle."""
    perform(fd, drm.DRM_IOCTL_GEM_CLOSE, drm.DrmGemClose(handle=handle))


def refused(number: int, action: Callable[[], object]) -> None:
    """`action` must fail with that errno."""
    met: AgentError | None = None
    try:
        action()
    except AgentError as error:
        met = error
    assert met is not None, f"did not fail with {os.strerror(number)}"
    assert met.number == number, f"{met}, not {os.strerror(number)}"


def main(scenarios: dict[str, Callable[[list[str]], None]]) -> int:
    """Run the scenario that is named first, with the arguments after it."""
    scenarios[sys.argv[1]](sys.argv[2:])
    return 0
