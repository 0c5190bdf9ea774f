"""An i915 node: what chip it is, its engines, contexts, buffers, submissions, fences.

ctypes over ioctl, one method an ioctl or two; what is made here lives until the
file is closed, which is when the kernel frees it in the right order.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import mmap
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from ..errors import AgentError, target, usage
from ..uapi import drm
from ..uapi import i915 as abi
from ..uapi.ioc import perform
from .fence import Fence
from .i915_batches import SIZE, Batch
from .i915_chips import LATEST, generation
from .node import open_node

__all__ = ["Buffer", "Command", "Device", "Engine", "Job"]

# Where buffers are put on hardware on which addresses are ours to choose.
_FIRST_ADDRESS = 0x01000000
_STEP = 1 << 16
# PARAM_MMAP_GTT_VERSION of kernels whose mmap offsets have a kind (i915_gem_mman.c).
_PARAM_MMAP_GTT_VERSION, _MMAP_KINDS = 40, 4
# How the CPU may see a buffer beside the GPU: write-combined, or as a discrete GPU's memory
# wants it, or through the aperture; with the domain to ask for.
_KINDS = (
    (abi.MMAP_OFFSET_WC, abi.DOMAIN_WC),
    (abi.MMAP_OFFSET_FIXED, 0),
    (abi.MMAP_OFFSET_GTT, abi.DOMAIN_GTT),
)
_LEGACY: tuple[tuple[int, int, int, int], ...] = (  # parameter, class, instance, flags of execbuf
    (abi.PARAM_HAS_BSD, 2, 0, abi.EXEC_BSD | abi.EXEC_BSD_RING1),
    (abi.PARAM_HAS_BSD2, 2, 1, abi.EXEC_BSD | abi.EXEC_BSD_RING2),
    (abi.PARAM_HAS_BLT, 1, 0, abi.EXEC_BLT),
    (abi.PARAM_HAS_VEBOX, 3, 0, abi.EXEC_VEBOX),
)


class Engine(NamedTuple):
    """One engine by the kernel's name for it.

    `selector` is what an execbuf of a context of this file names it by: its index in the
    context's own map, or the old flags where contexts have no map.
    """

    name: str
    kind: str
    instance: int
    number: int
    selector: int


class Buffer:
    """A page, or more, seen by the CPU in `memory`; `address` is where the GPU had it last."""

    def __init__(self, handle: int, address: int, memory: mmap.mmap, domain: int) -> None:
        self.handle = handle
        self.address = address
        self.memory = memory
        self.domain = domain


class Job(NamedTuple):
    """A submitted job: its buffer, and its fence."""

    buffer: Buffer
    fence: Fence


class Command(NamedTuple):
    """A submission, ready to be sent; `buffers` are the last of its `objects`, the batch the very
    last; `kept` is what it points to."""

    request: Any
    objects: Any
    buffers: list[Buffer]
    kept: Any


class Device:
    """An open node.  One thread submits; others may wait or write buffers."""

    def __init__(self, node: str) -> None:
        """Open it and ask what it is.  Raises AgentError: not there, or not i915."""
        self.node = node
        self.fd = open_node(node)
        # A mapping keeps the file open, by a descriptor of its own as well (CPython's mmap).
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.version = self._version()
            if self.version["name"] != "i915":
                raise target(
                    f"driver {self.version['name']}, not i915",
                    node,
                    "name the node of an i915: `cards` lists them",
                )
            if not self.parameter(abi.PARAM_HAS_EXEC_FENCE):
                raise target(
                    "this i915 gives no fences to userspace", node, "use Linux 4.12 or later"
                )
            self.device_id = self.parameter(abi.PARAM_CHIPSET_ID)
            self.revision = self.parameter(abi.PARAM_REVISION)
            self.generation = generation(self.device_id)
            self.gpu_reset = self.parameter(abi.PARAM_HAS_GPU_RESET)
            self.ppgtt = self.parameter(abi.PARAM_HAS_ALIASING_PPGTT)
            # With an address space of its own a context can say where its buffers are.
            self.softpin = (
                self.parameter(abi.PARAM_HAS_EXEC_SOFTPIN) > 0 and self.ppgtt >= abi.PPGTT_FULL
            )
            self._next_address = _FIRST_ADDRESS
            self._kinds = list(_KINDS)
            if self.parameter(_PARAM_MMAP_GTT_VERSION) < _MMAP_KINDS:
                self._kinds = [_KINDS[-1]]
            found = self._queried()
            self.queried = bool(found)
            self._map = found or self._asked()
            self.contexts = self._has_contexts()
            undo.pop_all()

    @property
    def engines(self) -> dict[str, Engine]:
        """By name, in the kernel's order."""
        mapped = self.queried and self.contexts
        engines = {}
        for index, (kind, instance, flags) in enumerate(self._map):
            known = abi.ENGINE_CLASSES[kind] if kind < len(abi.ENGINE_CLASSES) else f"class{kind}_"
            name = f"{known}{instance}"
            engines[name] = Engine(name, known, instance, kind, index if mapped else flags)
        return engines

    def context(self) -> int:
        """A new context's id, its engines mapped in the order of `engines`.

        Raises AgentError; its number is ENODEV where the hardware has none, EIO where this
        file's owner is banned for too many hangs.
        """
        request = abi.I915GemContextCreateExt()
        size = c.sizeof(abi.I915ContextParamEngines)
        count = len(self._map) if self.queried else 0
        engines = (c.c_char * (size + count * c.sizeof(abi.I915EngineClassInstance)))()
        names = (abi.I915EngineClassInstance * count).from_buffer(engines, size)
        for name, (kind, instance, _) in zip(names, self._map):
            name.engine_class, name.engine_instance = kind, instance
        setting = abi.I915GemContextCreateExtSetparam()
        setting.base.name = abi.CONTEXT_CREATE_EXT_SETPARAM
        setting.param.param = abi.CONTEXT_PARAM_ENGINES
        setting.param.size = len(engines)
        setting.param.value = c.addressof(engines)
        if count:
            request.flags = abi.CONTEXT_CREATE_FLAGS_USE_EXTENSIONS
            request.extensions = c.addressof(setting)
        perform(self.fd, abi.GEM_CONTEXT_CREATE_EXT, request)
        return int(request.ctx_id)

    def free_context(self, context: int) -> None:
        """Free it; what it submitted goes on.  Raises AgentError."""
        perform(self.fd, abi.GEM_CONTEXT_DESTROY, abi.I915GemContextDestroy(ctx_id=context))

    def reset_stats(self, context: int) -> tuple[int, int]:
        """How many of its batches hung, and how many the hang of another took along."""
        request = abi.I915ResetStats(ctx_id=context)
        perform(self.fd, abi.GET_RESET_STATS, request)
        return int(request.batch_active), int(request.batch_pending)

    def buffer(self, size: int = SIZE) -> Buffer:
        """Zeroed pages, `size` bytes of them.  Raises AgentError."""
        made = abi.I915GemCreate(size=size)
        perform(self.fd, abi.GEM_CREATE, made)
        address = self._next_address
        self._next_address += -(-size // _STEP) * _STEP
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_handle, int(made.handle))
            memory, domain = self._mapped(int(made.handle), size)
            undo.pop_all()
        buffer = Buffer(int(made.handle), address, memory, domain)
        self._buffers.add(buffer)
        return buffer

    def adopt(self, fd: int) -> int:
        """The handle of another process's dma-buf, which jobs may then name.  Raises AgentError."""
        request = drm.DrmPrimeHandle(fd=fd)
        perform(self.fd, drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, request)
        return int(request.handle)

    def own(self, address: int, size: int) -> int:
        """The handle of a buffer made of this process's memory, which jobs may name.

        Raises AgentError; its number is ENODEV where the GPU does not snoop the CPU's caches.
        """
        request = abi.I915GemUserptr(user_ptr=address, user_size=size)
        perform(self.fd, abi.GEM_USERPTR, request)
        return int(request.handle)

    def free(self, buffer: Buffer) -> None:
        """Forget a buffer; the kernel keeps it while a job uses it.  Raises AgentError."""
        buffer.memory.close()
        self._close_handle(buffer.handle)

    def look(self, buffer: Buffer) -> None:
        """See to it that the CPU sees in `buffer.memory` what the GPU wrote, and the GPU what
        the CPU writes there.  Waits while the GPU uses it.  Raises AgentError."""
        if buffer.domain:
            request = abi.I915GemSetDomain(
                handle=buffer.handle, read_domains=buffer.domain, write_domain=buffer.domain
            )
            perform(self.fd, abi.GEM_SET_DOMAIN, request)

    def command(
        self,
        engine: Engine,
        buffer: Buffer,
        build: Callable[[int], Batch],
        *,
        target: Buffer | None = None,
        written: Sequence[int] = (),
    ) -> Command:
        """What `send` submits, any number of times: the batch that `build` makes for an
        address, its own or that of `target`, which it writes.  `written` are the handles of
        buffers whose users wait for the job as if it wrote there."""
        pointed = buffer if target is None else target
        batch = build(pointed.address)
        self.look(buffer)
        buffer.memory[: len(batch.data)] = batch.data
        count = 0 if self.softpin else len(batch.addresses)
        relocations = (abi.I915GemRelocationEntry * count)()
        for entry, one in zip(relocations, batch.addresses):
            domain = abi.DOMAIN_INSTRUCTION if one.write else abi.DOMAIN_COMMAND
            entry.target_handle = pointed.handle
            entry.offset, entry.delta = one.offset, one.delta
            entry.presumed_offset = pointed.address
            entry.read_domains = domain
            entry.write_domain = domain if one.write else 0
        # The batch is the last one; it may not be written (i915_gem_execbuffer.c, eb_lookup_vmas).
        buffers = [buffer] if target is None else [target, buffer]
        foreign = len(written)
        objects = (abi.I915GemExecObject2 * (foreign + len(buffers)))()
        for index, handle in enumerate(written):
            objects[index].handle, objects[index].flags = handle, abi.EXEC_OBJECT_WRITE
        ours = abi.EXEC_OBJECT_PINNED if self.softpin else 0
        if self.softpin and self.generation >= LATEST:
            ours |= abi.EXEC_OBJECT_SUPPORTS_48B_ADDRESS
        for index, one_of_ours in enumerate(buffers, foreign):
            objects[index].handle = one_of_ours.handle
            objects[index].offset = one_of_ours.address
            objects[index].flags = ours
        if target is not None:
            objects[foreign].flags |= abi.EXEC_OBJECT_WRITE
        last = objects[len(objects) - 1]
        last.relocation_count = count
        last.relocs_ptr = c.addressof(relocations) if count else 0
        request = abi.I915GemExecbuffer2(
            buffers_ptr=c.addressof(objects),
            buffer_count=len(objects),
            batch_len=len(batch.data),
            flags=engine.selector | abi.EXEC_FENCE_OUT,
        )
        return Command(request, objects, buffers, relocations)

    def send(self, context: int, command: Command) -> Job:
        """Submit.  Raises AgentError; its number is EIO for a banned context and a wedged GPU."""
        request = abi.I915GemExecbuffer2.from_buffer_copy(command.request)
        request.rsvd1 = context
        perform(self.fd, abi.GEM_EXECBUFFER2_WR, request)
        first = len(command.objects) - len(command.buffers)
        for index, buffer in enumerate(command.buffers, first):
            buffer.address = int(command.objects[index].offset)
        return Job(command.buffers[-1], Fence(int(request.rsvd2) >> 32))

    def wait(self, job: Job, until_ns: int) -> bool:
        """Whether the GPU was done with its buffer by `until_ns` on CLOCK_MONOTONIC.

        Says nothing of how its fence ended (i915_gem_wait.c).  Raises AgentError.
        """
        left = max(0, until_ns - time.monotonic_ns())
        try:
            perform(
                self.fd,
                abi.GEM_WAIT,
                abi.I915GemWait(bo_handle=job.buffer.handle, timeout_ns=left),
            )
        except AgentError as error:
            if error.number == errno.ETIME:
                return False
            raise
        return True

    def engine(self, name: str, ring: int) -> Engine:
        """The engine called `name`.  Raises AgentError (usage) when it is not there."""
        engine = self.engines.get(name)
        if engine is None:
            known = ", ".join(self.engines) or "none"
            raise usage(f"no engine {name}", self.node, f"engines: {known}")
        if ring:
            raise usage(f"{name} has no ring {ring}", self.node, "every engine has one, 0")
        return engine

    def parameter(self, number: int) -> int:
        """What GETPARAM says; 0 for what this kernel or chip does not know."""
        value = c.c_int()
        with contextlib.suppress(AgentError):
            request = abi.I915Getparam(param=number, value=c.addressof(value))
            perform(self.fd, abi.GETPARAM, request)
        return value.value

    def close(self) -> None:
        """Close the file, and with it its contexts and its buffers' memory.  Idempotent."""
        for buffer in list(self._buffers):
            buffer.memory.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _close_handle(self, handle: int) -> None:
        perform(self.fd, drm.DRM_IOCTL_GEM_CLOSE, drm.DrmGemClose(handle=handle))

    def _has_contexts(self) -> bool:
        try:
            self.free_context(self.context())
        except AgentError as error:
            # A wedged GPU gives none now, yet one without contexts says that first.
            if error.number not in (errno.ENODEV, errno.EIO):
                raise
            return error.number == errno.EIO
        return True

    def _mapped(self, handle: int, size: int) -> tuple[mmap.mmap, int]:
        """The buffer's memory, by the first way that this kernel and chip offer."""
        trouble: Exception | None = None
        for kind, domain in list(self._kinds):
            place = abi.I915GemMmapOffset(handle=handle, flags=kind)
            try:
                perform(self.fd, abi.GEM_MMAP_OFFSET, place)
                memory = mmap.mmap(self.fd, size, offset=int(place.offset))
            except (AgentError, OSError) as error:
                trouble = error
                continue
            self._kinds = [(kind, domain)]
            return memory, domain
        raise target(f"buffers cannot be mapped: {trouble}", self.node, "see the kernel log")

    def _queried(self) -> list[tuple[int, int, int]]:
        """Class, instance and old flags of each engine; [] where QUERY does not know them."""
        item = abi.I915QueryItem(query_id=abi.QUERY_ENGINE_INFO)
        request = abi.I915Query(num_items=1, items_ptr=c.addressof(item))
        try:
            perform(self.fd, abi.QUERY, request)
        except AgentError:
            return []
        if item.length <= 0:
            return []
        answer = (c.c_char * item.length)()
        item.data_ptr = c.addressof(answer)
        perform(self.fd, abi.QUERY, request)
        if item.length <= 0:
            return []
        head = abi.I915QueryEngineInfo.from_buffer(answer)
        infos = (abi.I915EngineInfo * head.num_engines).from_buffer(answer, c.sizeof(head))
        flags = {(kind, instance): flag for _, kind, instance, flag in _LEGACY}
        flags[0, 0] = abi.EXEC_RENDER
        names = [(info.engine.engine_class, info.engine.engine_instance) for info in infos]
        # Without a map only those can be named that have flags of old.
        return [(*name, flags.get(name, abi.EXEC_RENDER)) for name in names]

    def _asked(self) -> list[tuple[int, int, int]]:
        """The same from kernels without that query, before 5.3."""
        engines = [(0, 0, abi.EXEC_RENDER)]
        for parameter, kind, instance, flags in _LEGACY:
            if self.parameter(parameter):
                engines.append((kind, instance, flags))
        if sum(kind == 2 for kind, _, _ in engines) == 1:  # RING1 is for those with two
            engines = [(k, i, abi.EXEC_BSD if k == 2 else f) for k, i, f in engines]
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
