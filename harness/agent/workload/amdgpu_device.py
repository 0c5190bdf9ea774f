"""An amdgpu render node: engines, contexts, buffers, submissions, fences.

ctypes over ioctl, one method an ioctl or two; what is made here lives until the
process ends, which is when the kernel frees it in the right order.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import AgentError, target, usage
from ..uapi import amdgpu as abi
from ..uapi import drm
from ..uapi.ioc import perform
from .fence import Fence
from .node import open_node

__all__ = ["Buffer", "Command", "Device", "Engine", "Job"]

_PAGE = 4096
_VA_START = 1 << 20  # lower addresses stay unmapped, so that a null pointer faults
_VA_STEP = 1 << 16
# The rings a context can address, amdgpu_ctx_num_entities in amdgpu_ctx.c: the
# scheduler spreads those over the chip's own rings, which may be more.
_ENTITIES = {
    "gfx": (abi.HW_IP_GFX, 1),
    "compute": (abi.HW_IP_COMPUTE, 4),
    "sdma": (abi.HW_IP_DMA, 2),
}


class Engine(NamedTuple):
    """One kind of engine, and which of its rings a job may name."""

    name: str
    ip_type: int
    version: str
    available_rings: int
    rings: list[int]
    ib_start_alignment: int
    ib_size_alignment: int


class Buffer(NamedTuple):
    """A buffer, a page unless asked for more, seen by the CPU in `memory`, by the GPU at
    `address`."""

    handle: int
    address: int
    memory: mmap.mmap


class Job(NamedTuple):
    """A submitted job."""

    context: int
    engine: Engine
    ring: int
    sequence: int


class Command(NamedTuple):
    """A submission's chunks, ready to be sent; `kept` is what they point to."""

    chunks: Any
    pointers: Any
    kept: list[Any]


class Device:
    """An open render node.  One thread submits; others may wait or write buffers."""

    def __init__(self, node: str) -> None:
        """Open it and ask what it is.  Raises AgentError: not there, or not amdgpu."""
        self.node = node
        self.fd = open_node(node)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self.fd)
            self.version = self._version()
            if self.version["name"] != "amdgpu" or self.version["major"] != 3:
                raise target(
                    f"driver {self.version['name']} {self.version['major']}.x, not amdgpu 3.x",
                    node,
                    "name the node of an amdgpu: `cards` lists them",
                )
            working = c.c_uint32()
            self._info(abi.INFO_ACCEL_WORKING, working)
            if not working.value:
                raise target("acceleration is not working", node, "see the kernel log of its start")
            self.device = abi.AmdgpuInfoDevice()
            self._info(abi.INFO_DEV_INFO, self.device)
            self._next_address = max(_VA_START, self.device.virtual_address_offset)
            self.engines = {engine.name: engine for engine in self._engines()}
            undo.pop_all()

    def context(self) -> int:
        """A new context's id.  Raises AgentError."""
        request = abi.AmdgpuCtx()
        _in(request).op = abi.CTX_OP_ALLOC
        perform(self.fd, abi.CTX, request)
        return int(request.out.alloc.ctx_id)

    def free_context(self, context: int) -> None:
        """Free it; its jobs go on.  Raises AgentError."""
        request = abi.AmdgpuCtx()
        _in(request).op = abi.CTX_OP_FREE
        _in(request).ctx_id = context
        perform(self.fd, abi.CTX, request)

    def reset_state(self, context: int) -> int:
        """AMDGPU_CTX_QUERY2_FLAGS_*: what befell the device since the context was made."""
        request = abi.AmdgpuCtx()
        _in(request).op = abi.CTX_OP_QUERY_STATE2
        _in(request).ctx_id = context
        perform(self.fd, abi.CTX, request)
        return int(request.out.state.flags)

    @property
    def minus_one(self) -> bool:
        """Whether SDMA packets say one less than they count, as from Vega on."""
        return bool(self.device.family >= abi.FAMILY_AI)

    def max_ibs(self, engine: Engine) -> int:
        """How many IBs a job may have; 1 from kernels that do not tell, before 6.4."""
        answer = (c.c_uint32 * (engine.ip_type + 1))()
        try:
            self._info(abi.INFO_MAX_IBS, answer)
        except AgentError:
            return 1
        return int(answer[engine.ip_type])

    def buffer(self, size: int = _PAGE) -> Buffer:
        """Zeroed pages, `size` bytes of them, in system memory, uncached for the GPU.

        Uncached because from Vega on a ring polling a cached line may never see
        what the CPU writes there; older chips have no such mapping type.
        """
        made = abi.AmdgpuGemCreate()
        _in(made).bo_size = size
        _in(made).alignment = _PAGE
        _in(made).domains = abi.GEM_DOMAIN_GTT
        perform(self.fd, abi.GEM_CREATE, made)
        handle = int(made.out.handle)
        found = abi.AmdgpuGemMmap()
        _in(found).handle = handle
        perform(self.fd, abi.GEM_MMAP, found)
        memory = mmap.mmap(self.fd, size, offset=int(found.out.addr_ptr))
        address = self._next_address
        alignment = max(_VA_STEP, self.device.virtual_address_alignment)
        self._next_address += -(-size // alignment) * alignment
        place = abi.AmdgpuGemVa()
        place.handle = handle
        place.operation = abi.VA_OP_MAP
        place.flags = abi.VM_PAGE_READABLE | abi.VM_PAGE_WRITEABLE | abi.VM_PAGE_EXECUTABLE
        if self.device.family >= abi.FAMILY_AI:
            place.flags |= abi.VM_MTYPE_UC
        place.va_address = address
        place.map_size = size
        perform(self.fd, abi.GEM_VA, place)
        return Buffer(handle, address, memory)

    def adopt(self, fd: int) -> int:
        """The handle of another process's buffer, which jobs may then name.  Raises AgentError."""
        request = drm.DrmPrimeHandle(fd=fd)
        perform(self.fd, drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, request)
        return int(request.handle)

    def own(self, address: int, size: int) -> int:
        """The handle of a buffer made of this process's memory, which jobs may name.

        With an MMU notifier, without which amdgpu takes no memory that is written
        (amdgpu_gem.c, amdgpu_gem_userptr_ioctl).  Raises AgentError.
        """
        flags = abi.USERPTR_REGISTER | abi.USERPTR_ANONONLY | abi.USERPTR_VALIDATE
        request = abi.AmdgpuGemUserptr(addr=address, size=size, flags=flags)
        perform(self.fd, abi.GEM_USERPTR, request)
        return int(request.handle)

    def free(self, buffer: Buffer) -> None:
        """Unmap and forget a buffer that no job uses any more.  Raises AgentError."""
        size = len(buffer.memory)
        buffer.memory.close()
        place = abi.AmdgpuGemVa()
        place.handle = buffer.handle
        place.operation = abi.VA_OP_UNMAP
        place.va_address = buffer.address
        place.map_size = size
        perform(self.fd, abi.GEM_VA, place)
        perform(self.fd, drm.DRM_IOCTL_GEM_CLOSE, drm.DrmGemClose(handle=buffer.handle))

    def submit(
        self,
        context: int,
        engine: Engine,
        ring: int,
        buffer: Buffer,
        dwords: list[int],
        syncobj: int,
        written: Sequence[int] = (),
    ) -> Job:
        """Have `dwords` run from the start of `buffer`; `syncobj`, unless 0, gets the fence.

        `written` are handles of buffers that wait for the job as if it wrote there: the driver
        takes that of all buffers that a job names (amdgpu_cs.c, amdgpu_cs_submit).
        Raises AgentError; its number is ECANCELED for a context that a reset killed.
        """
        command = self.command(engine, ring, buffer, dwords, syncobj, written)
        return Job(context, engine, ring, self.send(context, command))

    def command(
        self,
        engine: Engine,
        ring: int,
        buffer: Buffer,
        dwords: list[int],
        syncobj: int = 0,
        written: Sequence[int] = (),
    ) -> Command:
        """What `send` submits, any number of times; as `submit` says."""
        struct.pack_into(f"<{len(dwords)}I", buffer.memory, 0, *dwords)
        return self.repeated(engine, ring, buffer, 4 * len(dwords), 1, written, syncobj)

    def repeated(
        self,
        engine: Engine,
        ring: int,
        buffer: Buffer,
        size: int,
        times: int,
        written: Sequence[int],
        syncobj: int = 0,
    ) -> Command:
        """The same of the first `size` bytes of `buffer`, as they are, executed so many times."""
        named = [buffer.handle, *written]
        entries = (abi.AmdgpuBoListEntry * len(named))()
        for entry, handle in zip(entries, named):
            entry.bo_handle = handle
        handles = abi.AmdgpuBoListIn(
            operation=0xFFFFFFFF,  # as libdrm's clients leave it: a chunk makes no lasting list
            list_handle=0xFFFFFFFF,
            bo_number=len(entries),
            bo_info_size=c.sizeof(abi.AmdgpuBoListEntry),
            bo_info_ptr=c.addressof(entries),
        )
        commands = abi.AmdgpuCsChunkIb(
            va_start=buffer.address,
            ib_bytes=size,
            ip_type=engine.ip_type,
            ring=ring,
        )
        parts: list[Any] = [(abi.CHUNK_ID_BO_HANDLES, handles)]
        parts += [(abi.CHUNK_ID_IB, commands)] * times
        if syncobj:
            parts.append((abi.CHUNK_ID_SYNCOBJ_OUT, abi.AmdgpuCsChunkSem(handle=syncobj)))
        chunks = (abi.AmdgpuCsChunk * len(parts))()
        pointers = (c.c_uint64 * len(parts))()
        for index, (kind, data) in enumerate(parts):
            chunks[index].chunk_id = kind
            chunks[index].length_dw = c.sizeof(data) // 4
            chunks[index].chunk_data = c.addressof(data)
            pointers[index] = c.addressof(chunks[index])
        # `entries` and `parts` are only pointed to: the command keeps them.
        return Command(chunks, pointers, [entries, *(data for _, data in parts)])

    def send(self, context: int, command: Command) -> int:
        """Submit; the job's sequence number in its context and ring.  Raises AgentError."""
        request = abi.AmdgpuCs()
        _in(request).ctx_id = context
        _in(request).num_chunks = len(command.chunks)
        _in(request).chunks = c.addressof(command.pointers)
        perform(self.fd, abi.CS, request)
        return int(request.out.handle)

    def wait(self, job: Job, until_ns: int) -> bool:
        """Whether it completed by `until_ns` on CLOCK_MONOTONIC, by WAIT_CS.

        Raises AgentError with the fence's error as its number when it had one
        (amdgpu_cs.c, amdgpu_cs_wait_ioctl).
        """
        request = abi.AmdgpuWaitCs()
        _in(request).handle = job.sequence
        _in(request).timeout = until_ns
        _in(request).ip_type = job.engine.ip_type
        _in(request).ring = job.ring
        _in(request).ctx_id = job.context
        perform(self.fd, abi.WAIT_CS, request)
        return int(request.out.status) == 0

    def fence(self, job: Job) -> Fence:
        """The job's fence.  Ask at once: a context remembers only its latest jobs."""
        request = abi.AmdgpuFenceToHandle()
        fence = _in(request).fence
        fence.ctx_id = job.context
        fence.ip_type = job.engine.ip_type
        fence.ring = job.ring
        fence.seq_no = job.sequence
        _in(request).what = abi.FENCE_TO_HANDLE_GET_SYNC_FILE_FD
        perform(self.fd, abi.FENCE_TO_HANDLE, request)
        return Fence(int(request.out.handle))

    def syncobj(self) -> int:
        """A new, empty syncobj."""
        request = drm.DrmSyncobjCreate()
        perform(self.fd, drm.DRM_IOCTL_SYNCOBJ_CREATE, request)
        return int(request.handle)

    def syncobj_fence(self, syncobj: int) -> Fence:
        """The fence in a syncobj, which is then destroyed."""
        request = drm.DrmSyncobjHandle(handle=syncobj, flags=drm.SYNCOBJ_EXPORT_SYNC_FILE, fd=-1)
        perform(self.fd, drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, request)
        perform(self.fd, drm.DRM_IOCTL_SYNCOBJ_DESTROY, drm.DrmSyncobjDestroy(handle=syncobj))
        return Fence(int(request.fd))

    def engine(self, name: str, ring: int) -> Engine:
        """The engine called `name`.  Raises AgentError (usage) when it or the ring is not there."""
        engine = self.engines.get(name)
        if engine is None:
            known = ", ".join(self.engines) or "none"
            raise usage(f"no engine {name}", self.node, f"engines: {known}")
        if ring not in engine.rings:
            raise usage(f"{name} has no ring {ring}", self.node, f"rings: {engine.rings}")
        return engine

    def _engines(self) -> list[Engine]:
        engines = []
        for name, (kind, entities) in _ENTITIES.items():
            answer = abi.AmdgpuInfoHwIp()
            request = abi.AmdgpuInfo()
            request.query_hw_ip.type = kind
            self._ask(request, abi.INFO_HW_IP_INFO, answer)
            count = bin(answer.available_rings).count("1")
            if count:
                engines.append(
                    Engine(
                        name,
                        kind,
                        f"{answer.hw_ip_version_major}.{answer.hw_ip_version_minor}",
                        answer.available_rings,
                        list(range(min(count, entities))),
                        answer.ib_start_alignment,
                        answer.ib_size_alignment,
                    )
                )
        return engines

    def _version(self) -> dict[str, Any]:
        name = c.create_string_buffer(64)
        request = drm.DrmVersion(name_len=len(name), name=c.addressof(name))
        perform(self.fd, drm.DRM_IOCTL_VERSION, request)
        return {
            "name": name.raw[: min(request.name_len, len(name))].decode("ascii", "replace"),
            "major": request.version_major,
            "minor": request.version_minor,
        }

    def _info(self, query: int, answer: Any) -> None:
        self._ask(abi.AmdgpuInfo(), query, answer)

    def _ask(self, request: Any, query: int, answer: Any) -> None:
        request.query = query
        request.return_pointer = c.addressof(answer)
        request.return_size = c.sizeof(answer)
        perform(self.fd, abi.INFO, request)


def _in(union: Any) -> Any:
    """The `in` member, which Python's grammar does not let be named."""
    return getattr(union, "in")
