"""Runs on the target, unprivileged: buffers shared with vgem, and buffers of its own memory.

sharing SCENARIO RENDER_NODE [VGEM_NODE]
"""

from __future__ import annotations

import ctypes as c
import errno
import mmap
import os
import sys
import tempfile
import threading
import time

from harness.agent.uapi import amdgpu as abi
from harness.agent.uapi import dmabuf, kms, vgem
from harness.agent.uapi.ioc import perform
from harness.agent.workload.fence import Fence
from harness.tests.vm.clients.gpu import PAGE, Gpu, close, exported, imported, main, refused

__all__: list[str] = []

VALUE = 0xCA9A5EED
# ns; generous, for an overloaded machine under emulation.
PATIENCE = int(60e9)
# Where nothing else goes by itself, so that a hole there stays one.
ALONE = 0x10_0000_0000

libc = c.CDLL(None, use_errno=True)
libc.mmap.restype = c.c_void_p
libc.mmap.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_long]
libc.munmap.argtypes = [c.c_void_p, c.c_size_t]


class Vgem:
    """vgem's primary node: dumb buffers and fences."""

    def __init__(self, node: str) -> None:
        self.fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)

    def buffer(self) -> int:
        made = kms.DrmModeCreateDumb(width=PAGE // 4, height=1, bpp=32)
        perform(self.fd, kms.CREATE_DUMB, made)
        return int(made.handle)

    def memory(self, handle: int) -> mmap.mmap:
        place = kms.DrmModeMapDumb(handle=handle)
        perform(self.fd, kms.MAP_DUMB, place)
        return mmap.mmap(self.fd, PAGE, offset=place.offset)

    def attach(self, handle: int) -> int:
        """A writer's fence."""
        asked = vgem.DrmVgemFenceAttach(handle=handle, flags=vgem.FENCE_WRITE)
        perform(self.fd, vgem.FENCE_ATTACH, asked)
        return int(asked.out_fence)

    def signal(self, fence: int) -> None:
        perform(self.fd, vgem.FENCE_SIGNAL, vgem.DrmVgemFenceSignal(fence=fence))


def fences(buffer: int) -> Fence:
    """What a writer of the dma-buf would wait for."""
    asked = dmabuf.DmaBufExportSyncFile(flags=dmabuf.SYNC_READ | dmabuf.SYNC_WRITE)
    perform(buffer, dmabuf.DMA_BUF_IOCTL_EXPORT_SYNC_FILE, asked)
    return Fence(asked.fd)


def ends_well(fence: Fence) -> None:
    assert fence.wait(PATIENCE), "the job does not complete"
    assert fence.info()["status"] == 1, fence.info()


def word(memory: mmap.mmap) -> int:
    return int.from_bytes(memory[:4], "little")


# -- PRIME -------------------------------------------------------------------------


def imports(arguments: list[str]) -> None:
    """The GPU writes into vgem's buffer, and not before vgem's fence allows it."""
    gpu, other = Gpu(arguments[0]), Vgem(arguments[1])
    there = other.buffer()
    memory = other.memory(there)
    shared = exported(other.fd, there)
    here = imported(gpu.fd, shared)
    assert imported(gpu.fd, shared) == here, "a second handle for the same buffer"
    address = gpu.map(here)
    ends_well(gpu.store(address, VALUE, [here]))
    assert word(memory) == VALUE

    held = other.attach(there)
    job = gpu.store(address, VALUE + 1, [here])
    assert not job.wait(int(1e9)), "the job did not wait for vgem's fence"
    assert word(memory) == VALUE, "the job wrote before vgem's fence"
    # A job that does not use the buffer does not wait.
    free = gpu_of(arguments)
    elsewhere = free.device.buffer()
    ends_well(free.store(elsewhere.address, 1, [elsewhere.handle]))
    other.signal(held)
    ends_well(job)
    assert word(memory) == VALUE + 1
    close(gpu.fd, here)
    assert word(memory) == VALUE + 1, "the importer took the memory with it"


def gpu_of(arguments: list[str]) -> Gpu:
    """The GPU opened once more: another process's context, as far as the kernel knows."""
    return Gpu(arguments[0])


def exports(arguments: list[str]) -> None:
    """vgem sees what the GPU wrote into its buffer, and the fence of a job that hangs."""
    gpu, other = Gpu(arguments[0]), Vgem(arguments[1])
    buffer = gpu.device.buffer()
    shared = exported(gpu.fd, buffer.handle)
    there = imported(other.fd, shared)
    ends_well(gpu.store(buffer.address + 8, VALUE, [buffer.handle]))
    memory = mmap.mmap(shared, PAGE)
    assert int.from_bytes(memory[8:12], "little") == VALUE

    job, _release = gpu.hang([buffer.handle])
    seen = fences(shared)
    assert seen.info()["status"] == 0, seen.info()
    assert "drm_sched" in {f["driver"] for f in seen.info()["fences"]}, seen.info()
    refused(errno.EBUSY, lambda: other.attach(there))
    assert job.wait(PATIENCE), "recovery did not end the job"
    assert job.info()["status"] == -errno.ETIME, job.info()
    assert seen.wait(PATIENCE), "the job ended, not what the dma-buf shows of it"
    assert seen.info()["status"] == -errno.ETIME, seen.info()
    other.signal(other.attach(there))
    # The exporter goes first.
    os.close(gpu.fd)
    assert int.from_bytes(memory[8:12], "little") == VALUE


# -- userptr -----------------------------------------------------------------------


def anonymous(at: int = 0) -> int:
    """A fresh page of this process, at a given address or anywhere."""
    fixed = 0x10 if at else 0
    found = libc.mmap(at or None, PAGE, 3, 0x22 | fixed, -1, 0)  # PRIVATE, ANONYMOUS
    assert found not in (None, c.c_void_p(-1).value), os.strerror(c.get_errno())
    c.memset(found, 0, PAGE)
    return int(found)


def userptr(gpu: Gpu, address: int, flags: int = abi.USERPTR_REGISTER, size: int = PAGE) -> int:
    asked = abi.AmdgpuGemUserptr(addr=address, size=size, flags=flags)
    perform(gpu.fd, abi.GEM_USERPTR, asked)
    return int(asked.handle)


def value_at(address: int) -> int:
    return int(c.c_uint32.from_address(address).value)


def own_memory(arguments: list[str]) -> None:
    """The GPU writes into this process's memory, also when that is another page by now."""
    gpu = Gpu(arguments[0])
    page = anonymous(ALONE)
    handle = userptr(gpu, page, abi.USERPTR_REGISTER | abi.USERPTR_ANONONLY | abi.USERPTR_VALIDATE)
    address = gpu.map(handle)
    ends_well(gpu.store(address, VALUE, [handle]))
    assert value_at(page) == VALUE

    assert libc.munmap(page, PAGE) == 0
    refused(errno.EFAULT, lambda: gpu.store(address, VALUE + 1, [handle]))
    assert anonymous(page) == page
    ends_well(gpu.store(address, VALUE + 2, [handle]))
    assert value_at(page) == VALUE + 2
    # After a fork the page is shared until one of both writes.
    child = os.fork()
    if child == 0:
        os._exit(0 if value_at(page) == VALUE + 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    ends_well(gpu.store(address, VALUE + 3, [handle]))
    assert value_at(page) == VALUE + 3
    close(gpu.fd, handle)


def bad_userptr(arguments: list[str]) -> None:
    """What cannot be, or must not be, is refused."""
    gpu = Gpu(arguments[0])
    page = anonymous(ALONE)
    refused(errno.EINVAL, lambda: userptr(gpu, page + 1))
    refused(errno.EINVAL, lambda: userptr(gpu, page, size=PAGE + 1))
    refused(errno.EINVAL, lambda: userptr(gpu, page, size=0))
    refused(errno.EINVAL, lambda: userptr(gpu, page, 0x80 | abi.USERPTR_REGISTER))
    refused(errno.EACCES, lambda: userptr(gpu, page, 0))
    refused(errno.EFAULT, lambda: userptr(gpu, 0xFFFF_8880_0000_0000))
    refused(errno.ENOMEM, lambda: userptr(gpu, page, size=1 << 40))
    assert libc.munmap(page, PAGE) == 0
    refused(errno.EFAULT, lambda: userptr(gpu, page))
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        mapped = libc.mmap(None, PAGE, 3, 2, file.fileno(), 0)  # PRIVATE
        flags = abi.USERPTR_REGISTER | abi.USERPTR_ANONONLY
        refused(errno.EPERM, lambda: userptr(gpu, mapped, flags))
    handle = userptr(gpu, anonymous())
    refused(errno.EPERM, lambda: exported(gpu.fd, handle))
    asked = abi.AmdgpuGemMmap()
    getattr(asked, "in").handle = handle
    refused(errno.EPERM, lambda: perform(gpu.fd, abi.GEM_MMAP, asked))
    # Read-only memory stays as it is, whatever the mapping asked for; the write is a fault.
    page = anonymous()
    handle = userptr(gpu, page, abi.USERPTR_READONLY)
    job = gpu.store(gpu.map(handle), VALUE, [handle])
    assert job.wait(PATIENCE)
    assert job.info()["status"] == -errno.ETIME, job.info()
    assert value_at(page) == 0


def beside_a_hang(arguments: list[str]) -> None:
    """munmap(2) waits for a job that hangs on its memory, until recovery ends that."""
    gpu = Gpu(arguments[0])
    page = anonymous()
    handle = userptr(gpu, page)
    gpu.map(handle)
    job, _release = gpu.hang([handle])
    ended: list[bool] = []

    def unmap() -> None:
        assert libc.munmap(page, PAGE) == 0
        ended.append(job.info()["status"] != 0)

    thread = threading.Thread(target=unmap)
    began = time.monotonic()
    thread.start()
    thread.join(PATIENCE / 1e9)
    assert ended == [True], f"munmap did not wait for the job: {ended}"
    assert time.monotonic() - began > 0.5, "the job ended too early for anything to be seen"
    assert job.info()["status"] == -errno.ETIME, job.info()


def dies_beside_a_hang(arguments: list[str]) -> None:
    """Ends in the middle of it all: the kernel has to wait for the job."""
    gpu = Gpu(arguments[0])
    handle = userptr(gpu, anonymous())
    gpu.hang([handle])
    os.kill(os.getpid(), 9)


if __name__ == "__main__":
    found = (imports, exports, own_memory, bad_userptr, beside_a_hang, dies_beside_a_hang)
    sys.exit(main({scenario.__name__: scenario for scenario in found}))
