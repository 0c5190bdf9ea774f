"""ioctl numbers, computed from direction, type, number and the argument's size.

Source: include/uapi/asm-generic/ioctl.h.  That layout holds on x86, Arm and
RISC-V; PowerPC, MIPS and SPARC have their own, which is refused below.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, NamedTuple

from ..errors import AgentError, target

__all__ = ["Ioctl", "attempt", "io", "iow", "iowr", "perform"]

_WRITE = 1
_READ = 2


class Ioctl(NamedTuple):
    """One ioctl: its macro's name in the header, its number, its argument's type."""

    name: str
    number: int
    argument: type[Any] | None


def _ioc(direction: int, kind: str, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord(kind) << 8 | number


def io(name: str, kind: str, number: int) -> Ioctl:
    """_IO(kind, number)."""
    return Ioctl(name, _ioc(0, kind, number, 0), None)


def iow(name: str, kind: str, number: int, argument: type[Any]) -> Ioctl:
    """_IOW(kind, number, argument): the kernel reads it."""
    return Ioctl(name, _ioc(_WRITE, kind, number, ctypes.sizeof(argument)), argument)


def iowr(name: str, kind: str, number: int, argument: type[Any]) -> Ioctl:
    """_IOWR(kind, number, argument): the kernel reads it and writes it back."""
    return Ioctl(name, _ioc(_READ | _WRITE, kind, number, ctypes.sizeof(argument)), argument)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_libc.ioctl.restype = ctypes.c_int


def attempt(fd: int, request: Ioctl, argument: Any) -> int:
    """Do it once: the non-negative result, or the negative errno, whatever that is.

    The C library's ioctl, not fcntl's: that copies an argument aside and shows
    nothing of it after an error.  Errno 512 to 516 would be the kernel's own restart
    codes leaking out.  `argument` is None where the ioctl takes none.  Raises AgentError.
    """
    if os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha")):
        raise target("ioctl numbers are laid out otherwise here", os.uname().machine, "use x86")
    address = None if argument is None else ctypes.addressof(argument)
    result: int = _libc.ioctl(fd, request.number, address)
    return result if result >= 0 else -ctypes.get_errno()


def perform(fd: int, request: Ioctl, argument: Any) -> int:
    """Do it, again after EINTR and EAGAIN as DRM asks; the non-negative result.

    Raises AgentError (target) with the errno.
    """
    while True:
        result = attempt(fd, request, argument)
        if result >= 0:
            return result
        if -result not in (errno.EINTR, errno.EAGAIN):
            raise _failed(request, -result)


def _failed(request: Ioctl, number: int) -> AgentError:
    name = errno.errorcode.get(number, str(number))
    return target(f"{request.name}: {name}, {os.strerror(number)}", number=number)
