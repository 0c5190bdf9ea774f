"""The driver-independent DRM ABI that workloads use.

Source: include/uapi/drm/drm.h.
"""

from __future__ import annotations

import ctypes as c
import os

from .ioc import iow, iowr

__all__ = [
    "DRM_IOCTL_GEM_CLOSE",
    "DRM_IOCTL_PRIME_FD_TO_HANDLE",
    "DRM_IOCTL_PRIME_HANDLE_TO_FD",
    "DRM_IOCTL_SYNCOBJ_CREATE",
    "DRM_IOCTL_SYNCOBJ_DESTROY",
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD",
    "DRM_IOCTL_VERSION",
    "HEADER",
    "PRIME_RDWR",
    "SYNCOBJ_EXPORT_SYNC_FILE",
    "DrmGemClose",
    "DrmPrimeHandle",
    "DrmSyncobjCreate",
    "DrmSyncobjDestroy",
    "DrmSyncobjHandle",
    "DrmVersion",
]

HEADER = "drm/drm.h"

PRIME_RDWR = os.O_RDWR | os.O_CLOEXEC  # DRM_RDWR | DRM_CLOEXEC
SYNCOBJ_EXPORT_SYNC_FILE = 1  # DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE


class DrmVersion(c.Structure):
    """Which driver, and which of its ABIs; the texts are filled where there is room."""

    c_name = "struct drm_version"
    _fields_ = [
        ("version_major", c.c_int),
        ("version_minor", c.c_int),
        ("version_patchlevel", c.c_int),
        ("name_len", c.c_size_t),
        ("name", c.c_void_p),
        ("date_len", c.c_size_t),
        ("date", c.c_void_p),
        ("desc_len", c.c_size_t),
        ("desc", c.c_void_p),
    ]


class DrmGemClose(c.Structure):
    """Forget a buffer's handle."""

    c_name = "struct drm_gem_close"
    _fields_ = [("handle", c.c_uint32), ("pad", c.c_uint32)]


class DrmSyncobjCreate(c.Structure):
    """A container for one fence."""

    c_name = "struct drm_syncobj_create"
    _fields_ = [("handle", c.c_uint32), ("flags", c.c_uint32)]


class DrmSyncobjDestroy(c.Structure):
    """Forget a syncobj's handle."""

    c_name = "struct drm_syncobj_destroy"
    _fields_ = [("handle", c.c_uint32), ("pad", c.c_uint32)]


class DrmSyncobjHandle(c.Structure):
    """A syncobj, or the fence in it, as a file descriptor."""

    # 6.14 added `point` at the end; the ioctl's number is computed from the size,
    # and every kernel takes the shorter one (drm_ioctl.c copies what it is given).
    c_name = "struct drm_syncobj_handle"
    c_prefix = True
    _fields_ = [
        ("handle", c.c_uint32),
        ("flags", c.c_uint32),
        ("fd", c.c_int32),
        ("pad", c.c_uint32),
    ]


class DrmPrimeHandle(c.Structure):
    """A buffer's handle and its dma-buf."""

    c_name = "struct drm_prime_handle"
    _fields_ = [("handle", c.c_uint32), ("flags", c.c_uint32), ("fd", c.c_int32)]


DRM_IOCTL_VERSION = iowr("DRM_IOCTL_VERSION", "d", 0x00, DrmVersion)
DRM_IOCTL_GEM_CLOSE = iow("DRM_IOCTL_GEM_CLOSE", "d", 0x09, DrmGemClose)
DRM_IOCTL_PRIME_HANDLE_TO_FD = iowr("DRM_IOCTL_PRIME_HANDLE_TO_FD", "d", 0x2D, DrmPrimeHandle)
DRM_IOCTL_PRIME_FD_TO_HANDLE = iowr("DRM_IOCTL_PRIME_FD_TO_HANDLE", "d", 0x2E, DrmPrimeHandle)
DRM_IOCTL_SYNCOBJ_CREATE = iowr("DRM_IOCTL_SYNCOBJ_CREATE", "d", 0xBF, DrmSyncobjCreate)
DRM_IOCTL_SYNCOBJ_DESTROY = iowr("DRM_IOCTL_SYNCOBJ_DESTROY", "d", 0xC0, DrmSyncobjDestroy)
DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD = iowr("DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", "d", 0xC1, DrmSyncobjHandle)
