"""Sync files: fences as file descriptors, and what became of them.

Source: include/uapi/linux/sync_file.h; the meaning of `status` is in
drivers/dma-buf/sync_file.c: 1 signalled, 0 pending, negative the fence's error.
"""

from __future__ import annotations

import ctypes as c

from .ioc import iowr

__all__ = [
    "HEADER",
    "SYNC_IOC_FILE_INFO",
    "SYNC_IOC_MERGE",
    "SyncFenceInfo",
    "SyncFileInfo",
    "SyncMergeData",
]

HEADER = "linux/sync_file.h"


class SyncFenceInfo(c.Structure):
    """One fence; `timestamp_ns` is when it signalled, CLOCK_MONOTONIC, 0 before that."""

    c_name = "struct sync_fence_info"
    _fields_ = [
        ("obj_name", c.c_char * 32),
        ("driver_name", c.c_char * 32),
        ("status", c.c_int32),
        ("flags", c.c_uint32),
        ("timestamp_ns", c.c_uint64),
    ]


class SyncFileInfo(c.Structure):
    """A sync file; `sync_fence_info` points to room for `num_fences` of SyncFenceInfo."""

    c_name = "struct sync_file_info"
    _fields_ = [
        ("name", c.c_char * 32),
        ("status", c.c_int32),
        ("flags", c.c_uint32),
        ("num_fences", c.c_uint32),
        ("pad", c.c_uint32),
        ("sync_fence_info", c.c_uint64),
    ]


class SyncMergeData(c.Structure):
    """A new sync file, `fence`, that signals when this one and `fd2` have."""

    c_name = "struct sync_merge_data"
    _fields_ = [
        ("name", c.c_char * 32),
        ("fd2", c.c_int32),
        ("fence", c.c_int32),
        ("flags", c.c_uint32),
        ("pad", c.c_uint32),
    ]


SYNC_IOC_MERGE = iowr("SYNC_IOC_MERGE", ">", 3, SyncMergeData)
SYNC_IOC_FILE_INFO = iowr("SYNC_IOC_FILE_INFO", ">", 4, SyncFileInfo)
