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
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE",
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD",
    "DRM_IOCTL_SYNCOBJ_QUERY",
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL",
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT",
    "DRM_IOCTL_SYNCOBJ_TRANSFER",
    "DRM_IOCTL_SYNCOBJ_WAIT",
    "DRM_IOCTL_VERSION",
    "HEADER",
    "PRIME_RDWR",
    "SYNCOBJ_EXPORT_SYNC_FILE",
    "SYNCOBJ_IMPORT_SYNC_FILE",
    "SYNCOBJ_WAIT_ALL",
    "SYNCOBJ_WAIT_FOR_SUBMIT",
    "DrmGemClose",
    "DrmPrimeHandle",
    "DrmSyncobjCreate",
    "DrmSyncobjDestroy",
    "DrmSyncobjHandle",
    "DrmSyncobjTimelineArray",
    "DrmSyncobjTimelineWait",
    "DrmSyncobjTransfer",
    "DrmSyncobjWait",
    "DrmVersion",
]

HEADER = "drm/drm.h"

PRIME_RDWR = os.O_RDWR | os.O_CLOEXEC  # DRM_RDWR | DRM_CLOEXEC
SYNCOBJ_EXPORT_SYNC_FILE = 1  # DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE
SYNCOBJ_IMPORT_SYNC_FILE = 1  # DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE
SYNCOBJ_WAIT_ALL = 1 << 0  # DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL
SYNCOBJ_WAIT_FOR_SUBMIT = 1 << 1  # DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT


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


class DrmSyncobjWait(c.Structure):
    """Wait for the fences in syncobjs until `timeout_nsec` of CLOCK_MONOTONIC."""

    # 6.6 added `deadline_nsec` at the end.
    c_name = "struct drm_syncobj_wait"
    c_prefix = True
    _fields_ = [
        ("handles", c.c_uint64),
        ("timeout_nsec", c.c_int64),
        ("count_handles", c.c_uint32),
        ("flags", c.c_uint32),
        ("first_signaled", c.c_uint32),
        ("_pad", c.c_uint32),
    ]


class DrmSyncobjTimelineWait(c.Structure):
    """The same for a point of each of the timelines."""

    c_name = "struct drm_syncobj_timeline_wait"
    c_prefix = True
    _fields_ = [
        ("handles", c.c_uint64),
        ("points", c.c_uint64),
        ("timeout_nsec", c.c_int64),
        ("count_handles", c.c_uint32),
        ("flags", c.c_uint32),
        ("first_signaled", c.c_uint32),
        ("_pad", c.c_uint32),
    ]


class DrmSyncobjTransfer(c.Structure):
    """A fence from one syncobj, or a point of it, to another."""

    c_name = "struct drm_syncobj_transfer"
    _fields_ = [
        ("src_handle", c.c_uint32),
        ("dst_handle", c.c_uint32),
        ("src_point", c.c_uint64),
        ("dst_point", c.c_uint64),
        ("flags", c.c_uint32),
        ("_pad", c.c_uint32),
    ]


class DrmSyncobjTimelineArray(c.Structure):
    """Timelines, and a point of each: to signal, or to be told which are reached."""

    c_name = "struct drm_syncobj_timeline_array"
    _fields_ = [
        ("handles", c.c_uint64),
        ("points", c.c_uint64),
        ("count_handles", c.c_uint32),
        ("flags", c.c_uint32),
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
DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE = iowr("DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", "d", 0xC2, DrmSyncobjHandle)
DRM_IOCTL_SYNCOBJ_WAIT = iowr("DRM_IOCTL_SYNCOBJ_WAIT", "d", 0xC3, DrmSyncobjWait)
DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT = iowr(
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT", "d", 0xCA, DrmSyncobjTimelineWait
)
DRM_IOCTL_SYNCOBJ_QUERY = iowr("DRM_IOCTL_SYNCOBJ_QUERY", "d", 0xCB, DrmSyncobjTimelineArray)
DRM_IOCTL_SYNCOBJ_TRANSFER = iowr("DRM_IOCTL_SYNCOBJ_TRANSFER", "d", 0xCC, DrmSyncobjTransfer)
DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL = iowr(
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL", "d", 0xCD, DrmSyncobjTimelineArray
)
