"""An i915 of our own making, for what is asked of hardware that is not at hand.

Answers what the workload's device asks by ioctl, and keeps what it was sent.
"""

from __future__ import annotations

import ctypes as c
import errno
import mmap
import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.agent.errors import target
from harness.agent.uapi import i915 as abi
from harness.agent.workload import fence, i915_device

__all__ = ["G33", "HASWELL", "RCS", "TIGER_LAKE", "Kernel"]

RCS = 0


@dataclass
class Kernel:
    """An i915 with these parameters; `engines` None: one without that query."""

    parameters: dict[int, int]
    engines: list[tuple[int, int]] | None
    contexts: bool = True
    refused: set[int] = field(default_factory=set)
    made: list[Any] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    relocations: list[Any] = field(default_factory=list)
    handles: int = 0
    files: list[int] = field(default_factory=list)
    maps: list[mmap.mmap] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    status: int = 1
    """What every fence tells: 1 signalled, 0 pending, negative its error."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the kernel of every device that is opened from now on."""
        anonymous = mmap.mmap
        monkeypatch.setattr(i915_device, "perform", self.perform)
        monkeypatch.setattr(i915_device, "open_node", self.open)
        monkeypatch.setattr(fence, "perform", self.perform)

        def mapped(_fd: int, size: int, **_where: int) -> mmap.mmap:
            self.maps.append(anonymous(-1, size))
            return self.maps[-1]

        monkeypatch.setattr(mmap, "mmap", mapped)

    @property
    def opened(self) -> int:
        """How many files have been."""
        return len(self.files)

    def open(self, _node: str) -> int:
        self.files.append(os.open("/dev/null", os.O_RDWR))
        return self.files[-1]

    def perform(self, _fd: int, request: Any, argument: Any) -> int:
        name = request.name.removeprefix("DRM_IOCTL_").removeprefix("SYNC_IOC_")
        getattr(self, name.lower())(argument)
        return 0

    def version(self, asked: Any) -> None:
        c.memmove(asked.name, b"i915", 4)
        asked.name_len = 4

    def i915_getparam(self, asked: Any) -> None:
        if asked.param not in self.parameters:
            raise target("GETPARAM", number=errno.EINVAL)
        c.c_int.from_address(asked.value).value = self.parameters[asked.param]

    def i915_query(self, asked: Any) -> None:
        if self.engines is None:
            raise target("QUERY", number=errno.EINVAL)
        item = abi.I915QueryItem.from_address(asked.items_ptr)
        info = abi.I915EngineInfo
        size = c.sizeof(abi.I915QueryEngineInfo) + len(self.engines) * c.sizeof(info)
        if item.length:
            assert item.length == size
            abi.I915QueryEngineInfo.from_address(item.data_ptr).num_engines = len(self.engines)
            first = item.data_ptr + c.sizeof(abi.I915QueryEngineInfo)
            for index, (kind, instance) in enumerate(self.engines):
                told = info.from_address(first + index * c.sizeof(info))
                told.engine.engine_class, told.engine.engine_instance = kind, instance
        item.length = size

    def i915_gem_context_create_ext(self, asked: Any) -> None:
        if not self.contexts:
            raise target("CONTEXT_CREATE", number=errno.ENODEV)
        named: list[tuple[int, int]] = []
        if asked.flags & abi.CONTEXT_CREATE_FLAGS_USE_EXTENSIONS:
            setting = abi.I915GemContextCreateExtSetparam.from_address(asked.extensions)
            assert setting.param.param == abi.CONTEXT_PARAM_ENGINES
            size = c.sizeof(abi.I915EngineClassInstance)
            for at in range(c.sizeof(abi.I915ContextParamEngines), setting.param.size, size):
                one = abi.I915EngineClassInstance.from_address(setting.param.value + at)
                named.append((one.engine_class, one.engine_instance))
        self.made.append(named)
        asked.ctx_id = len(self.made)

    def i915_gem_context_destroy(self, asked: Any) -> None:
        assert 0 < asked.ctx_id <= len(self.made)
        self.freed.append(asked.ctx_id)

    def i915_gem_create(self, asked: Any) -> None:
        self.handles += 1
        asked.handle = self.handles

    def i915_gem_mmap_offset(self, asked: Any) -> None:
        if asked.flags in self.refused:
            raise target("MMAP_OFFSET", number=errno.ENODEV)
        asked.offset = 4096 * asked.handle

    def i915_gem_set_domain(self, asked: Any) -> None:
        assert asked.read_domains == asked.write_domain

    def i915_gem_execbuffer2_wr(self, asked: Any) -> None:
        self.sent.append(abi.I915GemExecbuffer2.from_buffer_copy(asked))
        kind = abi.I915GemExecObject2 * asked.buffer_count
        self.objects = list(kind.from_address(asked.buffers_ptr))
        last = self.objects[-1]
        self.relocations = []
        if last.relocation_count:
            entries = abi.I915GemRelocationEntry * last.relocation_count
            self.relocations = list(entries.from_address(last.relocs_ptr))
            last.offset = 0x02000000  # somewhere else than was presumed
        asked.rsvd2 = os.open("/dev/null", os.O_RDONLY) << 32

    def i915_gem_wait(self, asked: Any) -> None:
        if not self.status:
            raise target("WAIT", number=errno.ETIME)

    def i915_get_reset_stats(self, asked: Any) -> None:
        asked.batch_active, asked.batch_pending = self.status < 0, 0

    def gem_close(self, asked: Any) -> None:
        assert 0 < asked.handle <= self.handles
        self.closed.append(asked.handle)

    def file_info(self, asked: Any) -> None:
        asked.num_fences, asked.status = 1, self.status
        asked.name = b"0000:00:02.0-lab-i915[1234]3-1"


PLAIN = {abi.PARAM_HAS_EXEC_FENCE: 1, abi.PARAM_HAS_GPU_RESET: 1}
G33 = {**PLAIN, abi.PARAM_CHIPSET_ID: 0x29C2, 40: 4}
HASWELL = {**PLAIN, abi.PARAM_CHIPSET_ID: 0x0416, abi.PARAM_HAS_ALIASING_PPGTT: 1}
TIGER_LAKE = {
    **PLAIN,
    abi.PARAM_CHIPSET_ID: 0x9A49,
    abi.PARAM_HAS_ALIASING_PPGTT: 3,
    abi.PARAM_HAS_EXEC_SOFTPIN: 1,
    40: 4,
}
