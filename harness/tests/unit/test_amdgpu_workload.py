"""The amdgpu workload's operations where the device refuses."""

from __future__ import annotations

import errno
import mmap
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.agent.arguments import Arguments
from harness.agent.errors import AgentError, target, usage
from harness.agent.workload.amdgpu import AmdgpuWorkload
from harness.agent.workload.amdgpu_device import Buffer, Device

__all__: list[str] = []


class Refusing:
    """A device of one gfx ring that takes no job; `buffers` are those that nobody freed."""

    minus_one = True

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def adopt(self, fd: int) -> int:
        return fd

    def context(self) -> int:
        return 1

    def buffer(self) -> Buffer:
        self.buffers.append(Buffer(1, 1 << 20, mmap.mmap(-1, 4096)))
        return self.buffers[-1]

    def free(self, buffer: Buffer) -> None:
        buffer.memory.close()
        self.buffers.remove(buffer)

    def engine(self, name: str, ring: int) -> Any:
        if ring:
            raise usage(f"{name} has no ring {ring}")
        return SimpleNamespace(ib_size_alignment=4)

    def submit(self, *_what: Any) -> Any:
        raise target("AMDGPU_CS", number=errno.ECANCELED)


@pytest.mark.parametrize(("ring", "said"), [(0, "AMDGPU_CS"), (1, "no ring 1")])
@pytest.mark.parametrize("recipe", ["wait_reg_mem", "illegal_opcode"])
def test_a_hang_that_is_refused_leaves_nothing(recipe: str, ring: int, said: str) -> None:
    device = Refusing()
    workload = AmdgpuWorkload(cast(Device, device), 60.0)
    arguments = {"engine": "gfx", "ring": ring, "recipe": recipe}
    with pytest.raises(AgentError, match=said):
        workload.perform("hang", Arguments("hang", arguments))
    assert device.buffers == []
    assert workload._hangs == []


def test_a_canary_that_is_refused_leaves_nothing() -> None:
    device = Refusing()
    workload = AmdgpuWorkload(cast(Device, device), 60.0)
    told = workload.perform("canary", Arguments("canary", {"engine": "gfx"}))
    assert told == {"ok": False, "stage": "submit", "errname": "ECANCELED"}
    with pytest.raises(AgentError, match="no ring 1"):
        workload.perform("canary", Arguments("canary", {"engine": "gfx", "ring": 1}))
    assert device.buffers == []
