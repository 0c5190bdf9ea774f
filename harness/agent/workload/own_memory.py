"""A page of this process's own, that a GPU's job may use, and the calls that take it away.

Before such a page changes the kernel calls the driver's MMU notifier, which may wait for the
job, uninterruptibly: munmap(2) and fork(2) then last as long as that.
"""

from __future__ import annotations

import ctypes as c
import os

from ..errors import target
from .waiters import Wait

__all__ = ["SIZE", "Page"]

SIZE = 4096
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22  # PROT_*, MAP_* of asm-generic/mman-common.h

_libc = c.CDLL(None, use_errno=True)
_libc.mmap.restype = c.c_void_p
_libc.mmap.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_long]
_libc.munmap.argtypes = [c.c_void_p, c.c_size_t]


class Page:
    """Mapped by itself, so that unmapping it touches nothing else."""

    def __init__(self) -> None:
        """Raises AgentError."""
        found = _libc.mmap(None, SIZE, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        if found in (None, c.c_void_p(-1).value):
            number = c.get_errno()
            raise target(f"no page of memory: {os.strerror(number)}", number=number)
        self.address = int(found)
        c.memset(self.address, 0, SIZE)

    def waits(self) -> list[Wait]:
        """munmap(2) and fork(2); after the first there is nothing left to wait for."""

        def unmap(_until: int) -> int:
            return 1 if _libc.munmap(self.address, SIZE) == 0 else -c.get_errno()

        return [
            Wait("munmap", unmap, timed=False, alone=True),
            Wait("fork", _fork, timed=False, alone=True),
        ]


def _fork(_until: int) -> int:
    try:
        child = os.fork()
    except OSError as error:
        return -(error.errno or 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return 1
