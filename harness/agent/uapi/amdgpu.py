"""amdgpu's render ABI: the part that a job needs, from device info to fence.

Source: include/uapi/drm/amdgpu_drm.h of Linux 6.12.  Answers of INFO only ever
grow at their end and the kernel writes no more than was asked for
(amdgpu_kms.c, amdgpu_info_ioctl), so those structures are prefixes.
"""

from __future__ import annotations

import ctypes as c

from .ioc import iow, iowr

__all__ = [
    "AmdgpuBoListEntry",
    "AmdgpuBoListIn",
    "AmdgpuCs",
    "AmdgpuCsChunk",
    "AmdgpuCsChunkIb",
    "AmdgpuCsIn",
    "AmdgpuCtx",
    "AmdgpuFence",
    "AmdgpuFenceToHandle",
    "AmdgpuGemCreate",
    "AmdgpuGemMmap",
    "AmdgpuGemUserptr",
    "AmdgpuGemVa",
    "AmdgpuGemWaitIdle",
    "AmdgpuInfo",
    "AmdgpuInfoDevice",
    "AmdgpuInfoHwIp",
    "AmdgpuWaitCs",
    "AmdgpuWaitFences",
]

HEADER = "drm/amdgpu_drm.h"

GEM_DOMAIN_GTT = 0x2
CTX_OP_ALLOC = 1
CTX_OP_FREE = 2
CTX_OP_QUERY_STATE2 = 4
CTX_FLAGS = {  # AMDGPU_CTX_QUERY2_FLAGS_*
    "reset": 1 << 0,
    "vramlost": 1 << 1,
    "guilty": 1 << 2,
    "ras_ce": 1 << 3,
    "ras_ue": 1 << 4,
    "reset_in_progress": 1 << 5,
}
VA_OP_MAP = 1
VA_OP_UNMAP = 2
VM_PAGE_READABLE = 1 << 1
VM_PAGE_WRITEABLE = 1 << 2
VM_PAGE_EXECUTABLE = 1 << 3
VM_MTYPE_UC = 4 << 5
HW_IP_GFX = 0
HW_IP_COMPUTE = 1
HW_IP_DMA = 2
CHUNK_ID_IB = 0x01
CHUNK_ID_SYNCOBJ_OUT = 0x05
CHUNK_ID_BO_HANDLES = 0x06
FENCE_TO_HANDLE_GET_SYNC_FILE_FD = 2
INFO_ACCEL_WORKING = 0x00
INFO_HW_IP_INFO = 0x02
INFO_DEV_INFO = 0x16
INFO_MAX_IBS = 0x22
FAMILY_AI = 141
USERPTR_READONLY = 1 << 0
USERPTR_ANONONLY = 1 << 1
USERPTR_VALIDATE = 1 << 2
USERPTR_REGISTER = 1 << 3


class AmdgpuGemCreateIn(c.Structure):
    """A buffer to be made; sizes in bytes."""

    c_name = "struct drm_amdgpu_gem_create_in"
    _fields_ = [
        ("bo_size", c.c_uint64),
        ("alignment", c.c_uint64),
        ("domains", c.c_uint64),
        ("domain_flags", c.c_uint64),
    ]


class AmdgpuGemCreateOut(c.Structure):
    """Its handle."""

    c_name = "struct drm_amdgpu_gem_create_out"
    _fields_ = [("handle", c.c_uint32), ("_pad", c.c_uint32)]


class AmdgpuGemCreate(c.Union):
    c_name = "union drm_amdgpu_gem_create"
    _fields_ = [("in", AmdgpuGemCreateIn), ("out", AmdgpuGemCreateOut)]


class AmdgpuGemMmapIn(c.Structure):
    c_name = "struct drm_amdgpu_gem_mmap_in"
    _fields_ = [("handle", c.c_uint32), ("_pad", c.c_uint32)]


class AmdgpuGemMmapOut(c.Structure):
    """The offset at which the DRM node's mmap finds the buffer."""

    c_name = "struct drm_amdgpu_gem_mmap_out"
    _fields_ = [("addr_ptr", c.c_uint64)]


class AmdgpuGemMmap(c.Union):
    c_name = "union drm_amdgpu_gem_mmap"
    _fields_ = [("in", AmdgpuGemMmapIn), ("out", AmdgpuGemMmapOut)]


class AmdgpuGemVa(c.Structure):
    """A buffer's place in the GPU's address space."""

    c_name = "struct drm_amdgpu_gem_va"
    # 6.16 added syncobj fields at the end; zero when not given.
    c_prefix = True
    _fields_ = [
        ("handle", c.c_uint32),
        ("_pad", c.c_uint32),
        ("operation", c.c_uint32),
        ("flags", c.c_uint32),
        ("va_address", c.c_uint64),
        ("offset_in_bo", c.c_uint64),
        ("map_size", c.c_uint64),
    ]


class AmdgpuCtxIn(c.Structure):
    c_name = "struct drm_amdgpu_ctx_in"
    _fields_ = [
        ("op", c.c_uint32),
        ("flags", c.c_uint32),
        ("ctx_id", c.c_uint32),
        ("priority", c.c_int32),
    ]


class AmdgpuCtxOutAlloc(c.Structure):
    """A new context's id."""

    _fields_ = [("ctx_id", c.c_uint32), ("_pad", c.c_uint32)]


class AmdgpuCtxOutState(c.Structure):
    """What befell a context; `flags` as in CTX_FLAGS for QUERY_STATE2."""

    _fields_ = [("flags", c.c_uint64), ("hangs", c.c_uint32), ("reset_status", c.c_uint32)]


class AmdgpuCtxOut(c.Union):
    c_name = "union drm_amdgpu_ctx_out"
    _fields_ = [("alloc", AmdgpuCtxOutAlloc), ("state", AmdgpuCtxOutState)]


class AmdgpuCtx(c.Union):
    c_name = "union drm_amdgpu_ctx"
    _fields_ = [("in", AmdgpuCtxIn), ("out", AmdgpuCtxOut)]


class AmdgpuBoListIn(c.Structure):
    """Which buffers a submission uses; also the data of a BO_HANDLES chunk."""

    c_name = "struct drm_amdgpu_bo_list_in"
    _fields_ = [
        ("operation", c.c_uint32),
        ("list_handle", c.c_uint32),
        ("bo_number", c.c_uint32),
        ("bo_info_size", c.c_uint32),
        ("bo_info_ptr", c.c_uint64),
    ]


class AmdgpuBoListEntry(c.Structure):
    c_name = "struct drm_amdgpu_bo_list_entry"
    _fields_ = [("bo_handle", c.c_uint32), ("bo_priority", c.c_uint32)]


class AmdgpuCsChunk(c.Structure):
    """One part of a submission; the length is in dwords."""

    c_name = "struct drm_amdgpu_cs_chunk"
    _fields_ = [("chunk_id", c.c_uint32), ("length_dw", c.c_uint32), ("chunk_data", c.c_uint64)]


class AmdgpuCsChunkIb(c.Structure):
    """Where the commands are, and which ring shall run them."""

    c_name = "struct drm_amdgpu_cs_chunk_ib"
    _fields_ = [
        ("_pad", c.c_uint32),
        ("flags", c.c_uint32),
        ("va_start", c.c_uint64),
        ("ib_bytes", c.c_uint32),
        ("ip_type", c.c_uint32),
        ("ip_instance", c.c_uint32),
        ("ring", c.c_uint32),
    ]


class AmdgpuCsChunkSem(c.Structure):
    """A syncobj that receives the job's fence."""

    c_name = "struct drm_amdgpu_cs_chunk_sem"
    _fields_ = [("handle", c.c_uint32)]


class AmdgpuCsIn(c.Structure):
    """`chunks` points to pointers to chunks."""

    c_name = "struct drm_amdgpu_cs_in"
    _fields_ = [
        ("ctx_id", c.c_uint32),
        ("bo_list_handle", c.c_uint32),
        ("num_chunks", c.c_uint32),
        ("flags", c.c_uint32),
        ("chunks", c.c_uint64),
    ]


class AmdgpuCsOut(c.Structure):
    """The job's sequence number in its context and ring."""

    c_name = "struct drm_amdgpu_cs_out"
    _fields_ = [("handle", c.c_uint64)]


class AmdgpuCs(c.Union):
    c_name = "union drm_amdgpu_cs"
    _fields_ = [("in", AmdgpuCsIn), ("out", AmdgpuCsOut)]


class AmdgpuWaitCsIn(c.Structure):
    """`timeout` is an absolute CLOCK_MONOTONIC time in ns."""

    c_name = "struct drm_amdgpu_wait_cs_in"
    _fields_ = [
        ("handle", c.c_uint64),
        ("timeout", c.c_uint64),
        ("ip_type", c.c_uint32),
        ("ip_instance", c.c_uint32),
        ("ring", c.c_uint32),
        ("ctx_id", c.c_uint32),
    ]


class AmdgpuWaitCsOut(c.Structure):
    """0 completed, 1 still busy."""

    c_name = "struct drm_amdgpu_wait_cs_out"
    _fields_ = [("status", c.c_uint64)]


class AmdgpuWaitCs(c.Union):
    c_name = "union drm_amdgpu_wait_cs"
    _fields_ = [("in", AmdgpuWaitCsIn), ("out", AmdgpuWaitCsOut)]


class AmdgpuFence(c.Structure):
    """A job by context, ring and sequence number."""

    c_name = "struct drm_amdgpu_fence"
    _fields_ = [
        ("ctx_id", c.c_uint32),
        ("ip_type", c.c_uint32),
        ("ip_instance", c.c_uint32),
        ("ring", c.c_uint32),
        ("seq_no", c.c_uint64),
    ]


class AmdgpuFenceToHandleIn(c.Structure):
    _fields_ = [("fence", AmdgpuFence), ("what", c.c_uint32), ("pad", c.c_uint32)]


class AmdgpuFenceToHandleOut(c.Structure):
    _fields_ = [("handle", c.c_uint32)]


class AmdgpuFenceToHandle(c.Union):
    c_name = "union drm_amdgpu_fence_to_handle"
    _fields_ = [("in", AmdgpuFenceToHandleIn), ("out", AmdgpuFenceToHandleOut)]


class AmdgpuInfoQueryHwIp(c.Structure):
    """Which kind of engine to describe."""

    _fields_ = [("type", c.c_uint32), ("ip_instance", c.c_uint32)]


class AmdgpuInfoReadMmrReg(c.Structure):
    """The longest question, which gives the union its size."""

    _fields_ = [
        ("dword_offset", c.c_uint32),
        ("count", c.c_uint32),
        ("instance", c.c_uint32),
        ("flags", c.c_uint32),
    ]


class AmdgpuInfoQuestion(c.Union):
    _fields_ = [("query_hw_ip", AmdgpuInfoQueryHwIp), ("read_mmr_reg", AmdgpuInfoReadMmrReg)]


class AmdgpuInfo(c.Structure):
    """A question; the answer goes to `return_pointer`, `return_size` bytes at most."""

    c_name = "struct drm_amdgpu_info"
    _anonymous_ = ("question",)
    _fields_ = [
        ("return_pointer", c.c_uint64),
        ("return_size", c.c_uint32),
        ("query", c.c_uint32),
        ("question", AmdgpuInfoQuestion),
    ]


class AmdgpuInfoDevice(c.Structure):
    """The chip and its address space."""

    c_name = "struct drm_amdgpu_info_device"
    c_prefix = True
    _fields_ = [
        ("device_id", c.c_uint32),
        ("chip_rev", c.c_uint32),
        ("external_rev", c.c_uint32),
        ("pci_rev", c.c_uint32),
        ("family", c.c_uint32),
        ("num_shader_engines", c.c_uint32),
        ("num_shader_arrays_per_engine", c.c_uint32),
        ("gpu_counter_freq", c.c_uint32),
        ("max_engine_clock", c.c_uint64),
        ("max_memory_clock", c.c_uint64),
        ("cu_active_number", c.c_uint32),
        ("cu_ao_mask", c.c_uint32),
        ("cu_bitmap", c.c_uint32 * 4 * 4),
        ("enabled_rb_pipes_mask", c.c_uint32),
        ("num_rb_pipes", c.c_uint32),
        ("num_hw_gfx_contexts", c.c_uint32),
        ("_pcie_gen", c.c_uint32),  # a padding before 6.2
        ("ids_flags", c.c_uint64),
        ("virtual_address_offset", c.c_uint64),
        ("virtual_address_max", c.c_uint64),
        ("virtual_address_alignment", c.c_uint32),
        ("pte_fragment_size", c.c_uint32),
    ]


class AmdgpuInfoHwIp(c.Structure):
    """One kind of engine; `available_rings` has a bit for each ring."""

    c_name = "struct drm_amdgpu_info_hw_ip"
    c_prefix = True
    _fields_ = [
        ("hw_ip_version_major", c.c_uint32),
        ("hw_ip_version_minor", c.c_uint32),
        ("capabilities_flags", c.c_uint64),
        ("ib_start_alignment", c.c_uint32),
        ("ib_size_alignment", c.c_uint32),
        ("available_rings", c.c_uint32),
    ]


class AmdgpuGemUserptr(c.Structure):
    """A buffer made of the caller's own memory; address and size in whole pages."""

    c_name = "struct drm_amdgpu_gem_userptr"
    _fields_ = [
        ("addr", c.c_uint64),
        ("size", c.c_uint64),
        ("flags", c.c_uint32),
        ("handle", c.c_uint32),
    ]


class AmdgpuWaitFencesIn(c.Structure):
    """`fence_count` of AmdgpuFence at `fences`; `timeout_ns` is of CLOCK_MONOTONIC."""

    c_name = "struct drm_amdgpu_wait_fences_in"
    _fields_ = [
        ("fences", c.c_uint64),
        ("fence_count", c.c_uint32),
        ("wait_all", c.c_uint32),
        ("timeout_ns", c.c_uint64),
    ]


class AmdgpuWaitFencesOut(c.Structure):
    """`status` is 1 when they signalled in time: the other way round than in the other waits."""

    c_name = "struct drm_amdgpu_wait_fences_out"
    _fields_ = [("status", c.c_uint32), ("first_signaled", c.c_uint32)]


class AmdgpuWaitFences(c.Union):
    c_name = "union drm_amdgpu_wait_fences"
    _fields_ = [("in", AmdgpuWaitFencesIn), ("out", AmdgpuWaitFencesOut)]


class AmdgpuGemWaitIdleIn(c.Structure):
    """A buffer, and until when of CLOCK_MONOTONIC."""

    c_name = "struct drm_amdgpu_gem_wait_idle_in"
    _fields_ = [("handle", c.c_uint32), ("flags", c.c_uint32), ("timeout", c.c_uint64)]


class AmdgpuGemWaitIdleOut(c.Structure):
    """`status` is 0 when it is idle."""

    c_name = "struct drm_amdgpu_gem_wait_idle_out"
    _fields_ = [("status", c.c_uint32), ("domain", c.c_uint32)]


class AmdgpuGemWaitIdle(c.Union):
    c_name = "union drm_amdgpu_gem_wait_idle"
    _fields_ = [("in", AmdgpuGemWaitIdleIn), ("out", AmdgpuGemWaitIdleOut)]


_COMMAND_BASE = 0x40  # DRM_COMMAND_BASE, drm.h

GEM_CREATE = iowr("DRM_IOCTL_AMDGPU_GEM_CREATE", "d", _COMMAND_BASE + 0x00, AmdgpuGemCreate)
GEM_MMAP = iowr("DRM_IOCTL_AMDGPU_GEM_MMAP", "d", _COMMAND_BASE + 0x01, AmdgpuGemMmap)
CTX = iowr("DRM_IOCTL_AMDGPU_CTX", "d", _COMMAND_BASE + 0x02, AmdgpuCtx)
CS = iowr("DRM_IOCTL_AMDGPU_CS", "d", _COMMAND_BASE + 0x04, AmdgpuCs)
INFO = iow("DRM_IOCTL_AMDGPU_INFO", "d", _COMMAND_BASE + 0x05, AmdgpuInfo)
GEM_VA = iow("DRM_IOCTL_AMDGPU_GEM_VA", "d", _COMMAND_BASE + 0x08, AmdgpuGemVa)
GEM_USERPTR = iowr("DRM_IOCTL_AMDGPU_GEM_USERPTR", "d", _COMMAND_BASE + 0x11, AmdgpuGemUserptr)
WAIT_CS = iowr("DRM_IOCTL_AMDGPU_WAIT_CS", "d", _COMMAND_BASE + 0x09, AmdgpuWaitCs)
FENCE_TO_HANDLE = iowr(
    "DRM_IOCTL_AMDGPU_FENCE_TO_HANDLE", "d", _COMMAND_BASE + 0x14, AmdgpuFenceToHandle
)
WAIT_FENCES = iowr("DRM_IOCTL_AMDGPU_WAIT_FENCES", "d", _COMMAND_BASE + 0x12, AmdgpuWaitFences)
GEM_WAIT_IDLE = iowr("DRM_IOCTL_AMDGPU_GEM_WAIT_IDLE", "d", _COMMAND_BASE + 0x07, AmdgpuGemWaitIdle)
