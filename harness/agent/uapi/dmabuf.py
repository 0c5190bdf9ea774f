"""dma-bufs: buffers as file descriptors, and the fences on them.

Source: include/uapi/linux/dma-buf.h.
"""

from __future__ import annotations

import ctypes as c

from .ioc import iowr

__all__ = ["DMA_BUF_IOCTL_EXPORT_SYNC_FILE", "HEADER", "DmaBufExportSyncFile"]

HEADER = "linux/dma-buf.h"

SYNC_READ = 1
SYNC_WRITE = 2


class DmaBufExportSyncFile(c.Structure):
    """The fences that a reader or writer would have to wait for, as a sync file."""

    c_name = "struct dma_buf_export_sync_file"
    _fields_ = [("flags", c.c_uint32), ("fd", c.c_int32)]


DMA_BUF_IOCTL_EXPORT_SYNC_FILE = iowr(
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE", "b", 2, DmaBufExportSyncFile
)
