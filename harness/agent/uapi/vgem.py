"""vgem: buffers without a GPU, with fences that userspace signals.

Source: include/uapi/drm/vgem_drm.h.  A fence signals by itself after 10 s (vgem_fence.c).
"""

from __future__ import annotations

import ctypes as c

from .ioc import iow, iowr

__all__ = ["HEADER", "DrmVgemFenceAttach", "DrmVgemFenceSignal"]

HEADER = "drm/vgem_drm.h"

FENCE_WRITE = 0x1


class DrmVgemFenceAttach(c.Structure):
    """A new fence on a buffer; EBUSY while a fence that conflicts is there."""

    c_name = "struct drm_vgem_fence_attach"
    _fields_ = [
        ("handle", c.c_uint32),
        ("flags", c.c_uint32),
        ("out_fence", c.c_uint32),
        ("pad", c.c_uint32),
    ]


class DrmVgemFenceSignal(c.Structure):
    c_name = "struct drm_vgem_fence_signal"
    _fields_ = [("fence", c.c_uint32), ("flags", c.c_uint32)]


FENCE_ATTACH = iowr("DRM_IOCTL_VGEM_FENCE_ATTACH", "d", 0x40 + 0x1, DrmVgemFenceAttach)
FENCE_SIGNAL = iow("DRM_IOCTL_VGEM_FENCE_SIGNAL", "d", 0x40 + 0x2, DrmVgemFenceSignal)
