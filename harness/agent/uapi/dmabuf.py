"""dma-bufs: buffers as file descriptors, and the fences on them.

Source: include/uapi/linux/dma-buf.h.
"""

from __future__ import annotations

import ctypes as c

from .ioc import iow, iowr

__all__ = [
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE",
    "DMA_BUF_IOCTL_IMPORT_SYNC_FILE",
    "DMA_BUF_IOCTL_SYNC",
    "HEADER",
    "DmaBufExportSyncFile",
    "DmaBufImportSyncFile",
    "DmaBufSync",
]

HEADER = "linux/dma-buf.h"

SYNC_READ = 1
SYNC_WRITE = 2
SYNC_START = 0
SYNC_END = 4


class DmaBufSync(c.Structure):
    """The CPU begins or ends to use the buffer; beginning waits for its fences."""

    c_name = "struct dma_buf_sync"
    _fields_ = [("flags", c.c_uint64)]


class DmaBufExportSyncFile(c.Structure):
    """The fences that a reader or writer would have to wait for, as a sync file."""

    c_name = "struct dma_buf_export_sync_file"
    _fields_ = [("flags", c.c_uint32), ("fd", c.c_int32)]


class DmaBufImportSyncFile(c.Structure):
    """A sync file's fences, for whoever reads or writes the buffer to wait for."""

    c_name = "struct dma_buf_import_sync_file"
    _fields_ = [("flags", c.c_uint32), ("fd", c.c_int32)]


DMA_BUF_IOCTL_SYNC = iow("DMA_BUF_IOCTL_SYNC", "b", 0, DmaBufSync)
DMA_BUF_IOCTL_EXPORT_SYNC_FILE = iowr(
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE", "b", 2, DmaBufExportSyncFile
)
DMA_BUF_IOCTL_IMPORT_SYNC_FILE = iow("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", "b", 3, DmaBufImportSyncFile)
