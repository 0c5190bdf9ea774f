"""i915's render ABI: the part that a job needs, from engine discovery to reset statistics.

Source: include/uapi/drm/i915_drm.h of Linux 6.12.  The first structure of a QUERY answer
is followed by as many of the next as it says.
"""

from __future__ import annotations

import ctypes as c

from .ioc import io, iow, iowr

__all__ = [
    "I915ContextParam",
    "I915ContextParamEngines",
    "I915EngineClassInstance",
    "I915EngineInfo",
    "I915GemContextCreateExt",
    "I915GemContextCreateExtSetparam",
    "I915GemContextDestroy",
    "I915GemCreate",
    "I915GemExecObject2",
    "I915GemExecbuffer2",
    "I915GemMmapOffset",
    "I915GemRelocationEntry",
    "I915GemSetDomain",
    "I915GemUserptr",
    "I915GemWait",
    "I915Getparam",
    "I915Query",
    "I915QueryEngineInfo",
    "I915QueryItem",
    "I915ResetStats",
    "I915UserExtension",
]

HEADER = "drm/i915_drm.h"

PARAM_CHIPSET_ID = 4
PARAM_HAS_BSD = 10
PARAM_HAS_BLT = 11
PARAM_HAS_ALIASING_PPGTT = 18
PARAM_HAS_VEBOX = 22
PARAM_HAS_BSD2 = 31
PARAM_REVISION = 32
PARAM_HAS_GPU_RESET = 35
PARAM_HAS_EXEC_SOFTPIN = 37
PARAM_HAS_EXEC_FENCE = 44

PPGTT_FULL = 2
"""HAS_ALIASING_PPGTT: 0 none, 1 aliasing, 2 an address space of its own for each context."""

ENGINE_CLASSES = ("rcs", "bcs", "vcs", "vecs", "ccs")
"""enum drm_i915_gem_engine_class, by the names the kernel gives them (intel_engine_user.c)."""

EXEC_RENDER = 1
EXEC_BSD = 2
EXEC_BLT = 3
EXEC_VEBOX = 4
EXEC_BSD_RING1 = 1 << 13
EXEC_BSD_RING2 = 2 << 13
EXEC_FENCE_OUT = 1 << 17

EXEC_OBJECT_WRITE = 1 << 2
EXEC_OBJECT_SUPPORTS_48B_ADDRESS = 1 << 3
EXEC_OBJECT_PINNED = 1 << 4

DOMAIN_COMMAND = 0x08
DOMAIN_INSTRUCTION = 0x10
DOMAIN_GTT = 0x40
DOMAIN_WC = 0x80

MMAP_OFFSET_GTT = 0
MMAP_OFFSET_WC = 1
MMAP_OFFSET_FIXED = 4

QUERY_ENGINE_INFO = 2
CONTEXT_CREATE_FLAGS_USE_EXTENSIONS = 1 << 0
CONTEXT_CREATE_EXT_SETPARAM = 0
CONTEXT_PARAM_ENGINES = 0xA


class I915Getparam(c.Structure):
    """A number asked of the driver; `value` points to where it goes."""

    c_name = "struct drm_i915_getparam"
    _fields_ = [("param", c.c_int32), ("value", c.c_void_p)]


class I915GemCreate(c.Structure):
    """A buffer to be made, `size` in bytes, and its handle."""

    c_name = "struct drm_i915_gem_create"
    _fields_ = [("size", c.c_uint64), ("handle", c.c_uint32), ("pad", c.c_uint32)]


class I915GemMmapOffset(c.Structure):
    """The offset at which the DRM node's mmap finds the buffer; `flags` MMAP_OFFSET_*."""

    c_name = "struct drm_i915_gem_mmap_offset"
    _fields_ = [
        ("handle", c.c_uint32),
        ("pad", c.c_uint32),
        ("offset", c.c_uint64),
        ("flags", c.c_uint64),
        ("extensions", c.c_uint64),
    ]


class I915GemSetDomain(c.Structure):
    """Who is going to read and write a buffer, so that the right caches are flushed."""

    c_name = "struct drm_i915_gem_set_domain"
    _fields_ = [
        ("handle", c.c_uint32),
        ("read_domains", c.c_uint32),
        ("write_domain", c.c_uint32),
    ]


class I915GemRelocationEntry(c.Structure):
    """An address in the batch that the kernel fills in, where it is not as presumed."""

    c_name = "struct drm_i915_gem_relocation_entry"
    _fields_ = [
        ("target_handle", c.c_uint32),
        ("delta", c.c_uint32),
        ("offset", c.c_uint64),
        ("presumed_offset", c.c_uint64),
        ("read_domains", c.c_uint32),
        ("write_domain", c.c_uint32),
    ]


class I915GemExecObject2(c.Structure):
    """A buffer that a submission uses."""

    c_name = "struct drm_i915_gem_exec_object2"
    _fields_ = [
        ("handle", c.c_uint32),
        ("relocation_count", c.c_uint32),
        ("relocs_ptr", c.c_uint64),
        ("alignment", c.c_uint64),
        ("offset", c.c_uint64),
        ("flags", c.c_uint64),
        ("rsvd1", c.c_uint64),
        ("rsvd2", c.c_uint64),
    ]


class I915GemExecbuffer2(c.Structure):
    """A submission; `rsvd1` is the context, `rsvd2` the fences: one in below, one out above."""

    c_name = "struct drm_i915_gem_execbuffer2"
    _fields_ = [
        ("buffers_ptr", c.c_uint64),
        ("buffer_count", c.c_uint32),
        ("batch_start_offset", c.c_uint32),
        ("batch_len", c.c_uint32),
        ("DR1", c.c_uint32),
        ("DR4", c.c_uint32),
        ("num_cliprects", c.c_uint32),
        ("cliprects_ptr", c.c_uint64),
        ("flags", c.c_uint64),
        ("rsvd1", c.c_uint64),
        ("rsvd2", c.c_uint64),
    ]


class I915GemWait(c.Structure):
    """Wait until the GPU is done with a buffer; `timeout_ns` negative means for ever."""

    c_name = "struct drm_i915_gem_wait"
    _fields_ = [("bo_handle", c.c_uint32), ("flags", c.c_uint32), ("timeout_ns", c.c_int64)]


class I915GemUserptr(c.Structure):
    """A buffer made of the caller's own memory; address and size in whole pages."""

    c_name = "struct drm_i915_gem_userptr"
    _fields_ = [
        ("user_ptr", c.c_uint64),
        ("user_size", c.c_uint64),
        ("flags", c.c_uint32),
        ("handle", c.c_uint32),
    ]


class I915UserExtension(c.Structure):
    """The head of an extension, and the address of the next one."""

    c_name = "struct i915_user_extension"
    _fields_ = [
        ("next_extension", c.c_uint64),
        ("name", c.c_uint32),
        ("flags", c.c_uint32),
        ("rsvd", c.c_uint32 * 4),
    ]


class I915ContextParam(c.Structure):
    """A setting of a context; of one larger than a number `value` is the address."""

    c_name = "struct drm_i915_gem_context_param"
    _fields_ = [
        ("ctx_id", c.c_uint32),
        ("size", c.c_uint32),
        ("param", c.c_uint64),
        ("value", c.c_uint64),
    ]


class I915GemContextCreateExt(c.Structure):
    """A context to be made, and its id."""

    c_name = "struct drm_i915_gem_context_create_ext"
    _fields_ = [("ctx_id", c.c_uint32), ("flags", c.c_uint32), ("extensions", c.c_uint64)]


class I915GemContextCreateExtSetparam(c.Structure):
    """A setting that a new context is to have."""

    c_name = "struct drm_i915_gem_context_create_ext_setparam"
    _fields_ = [("base", I915UserExtension), ("param", I915ContextParam)]


class I915GemContextDestroy(c.Structure):
    c_name = "struct drm_i915_gem_context_destroy"
    _fields_ = [("ctx_id", c.c_uint32), ("pad", c.c_uint32)]


class I915EngineClassInstance(c.Structure):
    """An engine's name in the ABI."""

    c_name = "struct i915_engine_class_instance"
    _fields_ = [("engine_class", c.c_uint16), ("engine_instance", c.c_uint16)]


class I915ContextParamEngines(c.Structure):
    """The engines that a context's execbuffers name by their index here follow."""

    c_name = "struct i915_context_param_engines"
    _pack_ = 1
    _fields_ = [("extensions", c.c_uint64)]


class I915ResetStats(c.Structure):
    """A context's part in resets; `reset_count` is 0 to all but root.

    `batch_active` counts batches found running when the GPU hung, `batch_pending` those
    that a hang of another took along (i915_gem_context_reset_stats_ioctl).
    """

    c_name = "struct drm_i915_reset_stats"
    _fields_ = [
        ("ctx_id", c.c_uint32),
        ("flags", c.c_uint32),
        ("reset_count", c.c_uint32),
        ("batch_active", c.c_uint32),
        ("batch_pending", c.c_uint32),
        ("pad", c.c_uint32),
    ]


class I915QueryItem(c.Structure):
    """One question; `length` 0 asks how long the answer is, negative is an errno."""

    c_name = "struct drm_i915_query_item"
    _fields_ = [
        ("query_id", c.c_uint64),
        ("length", c.c_int32),
        ("flags", c.c_uint32),
        ("data_ptr", c.c_uint64),
    ]


class I915Query(c.Structure):
    c_name = "struct drm_i915_query"
    _fields_ = [("num_items", c.c_uint32), ("flags", c.c_uint32), ("items_ptr", c.c_uint64)]


class I915EngineInfo(c.Structure):
    """One engine."""

    c_name = "struct drm_i915_engine_info"
    _fields_ = [
        ("engine", I915EngineClassInstance),
        ("rsvd0", c.c_uint32),
        ("flags", c.c_uint64),
        ("capabilities", c.c_uint64),
        ("logical_instance", c.c_uint16),
        ("rsvd1", c.c_uint16 * 3),
        ("rsvd2", c.c_uint64 * 3),
    ]


class I915QueryEngineInfo(c.Structure):
    """How many engines there are; that many I915EngineInfo follow."""

    c_name = "struct drm_i915_query_engine_info"
    _fields_ = [("num_engines", c.c_uint32), ("rsvd", c.c_uint32 * 3)]


_COMMAND_BASE = 0x40  # DRM_COMMAND_BASE, drm.h

GETPARAM = iowr("DRM_IOCTL_I915_GETPARAM", "d", _COMMAND_BASE + 0x06, I915Getparam)
GEM_CREATE = iowr("DRM_IOCTL_I915_GEM_CREATE", "d", _COMMAND_BASE + 0x1B, I915GemCreate)
GEM_SET_DOMAIN = iow("DRM_IOCTL_I915_GEM_SET_DOMAIN", "d", _COMMAND_BASE + 0x1F, I915GemSetDomain)
GEM_MMAP_OFFSET = iowr(
    "DRM_IOCTL_I915_GEM_MMAP_OFFSET", "d", _COMMAND_BASE + 0x24, I915GemMmapOffset
)
GEM_EXECBUFFER2_WR = iowr(
    "DRM_IOCTL_I915_GEM_EXECBUFFER2_WR", "d", _COMMAND_BASE + 0x29, I915GemExecbuffer2
)
GEM_WAIT = iowr("DRM_IOCTL_I915_GEM_WAIT", "d", _COMMAND_BASE + 0x2C, I915GemWait)
GEM_CONTEXT_CREATE_EXT = iowr(
    "DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT", "d", _COMMAND_BASE + 0x2D, I915GemContextCreateExt
)
GEM_CONTEXT_DESTROY = iow(
    "DRM_IOCTL_I915_GEM_CONTEXT_DESTROY", "d", _COMMAND_BASE + 0x2E, I915GemContextDestroy
)
GET_RESET_STATS = iowr("DRM_IOCTL_I915_GET_RESET_STATS", "d", _COMMAND_BASE + 0x32, I915ResetStats)
QUERY = iowr("DRM_IOCTL_I915_QUERY", "d", _COMMAND_BASE + 0x39, I915Query)
GEM_THROTTLE = io("DRM_IOCTL_I915_GEM_THROTTLE", "d", _COMMAND_BASE + 0x18)
GEM_USERPTR = iowr("DRM_IOCTL_I915_GEM_USERPTR", "d", _COMMAND_BASE + 0x33, I915GemUserptr)
