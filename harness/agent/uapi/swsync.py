"""sw_sync: timelines whose fences userspace signals, behind a file of debugfs.

Source: drivers/dma-buf/sw_sync.c, which keeps its ABI to itself: no header of userspace's
has it.  Each open file is a timeline; closing it ends its pending fences with -ENOENT.
"""

from __future__ import annotations

import ctypes as c

from .ioc import iow, iowr

__all__ = ["CREATE_FENCE", "INC", "PATH", "SwSyncCreateFence"]

PATH = "/sys/kernel/debug/sync/sw_sync"


class SwSyncCreateFence(c.Structure):
    """A sync file, `fence`, that signals when the timeline has reached `value`."""

    _fields_ = [("value", c.c_uint32), ("name", c.c_char * 32), ("fence", c.c_int32)]


CREATE_FENCE = iowr("SW_SYNC_IOC_CREATE_FENCE", "W", 0, SwSyncCreateFence)
INC = iow("SW_SYNC_IOC_INC", "W", 1, c.c_uint32)
