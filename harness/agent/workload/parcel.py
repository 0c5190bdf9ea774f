"""A buffer's way from one workload to another: its dma-buf, over a socket of their own.

Both are unprivileged processes that know nothing of each other; the receiver's
address, which nobody can guess, goes through the controller.
"""

from __future__ import annotations

import os
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import AgentError, target, usage
from ..uapi import drm
from ..uapi.ioc import perform

__all__ = ["SECONDS", "Adopted", "Inbox", "export", "send"]

_PREFIX = "lab-parcel-"
SECONDS = 10.0
"""How long a parcel is waited for."""


class Inbox:
    """A datagram socket in the abstract namespace (unix(7)): a parcel waits in it until fetched."""

    def __init__(self) -> None:
        # Few share a buffer, and on an emulated target this import is a tenth of a start; `secrets`
        # loads OpenSSL.
        import socket

        self.address = _PREFIX + os.urandom(16).hex()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address}")

    def receive(self, seconds: float) -> int:
        """A descriptor, the caller's to close.  Raises AgentError: none came in time."""
        import socket

        self._socket.settimeout(seconds)
        try:
            _, fds, _, _ = socket.recv_fds(self._socket, 1, 1)
        except socket.timeout as error:
            raise target(
                f"no buffer came within {seconds:g} s",
                cure="have the other workload share it first",
            ) from error
        if not fds:
            raise target("what came holds no buffer", cure="tell us the kernel")
        os.set_inheritable(fds[0], False)
        return fds[0]


class Adopted:
    """The buffers that a GPU workload shares with other processes, and that its jobs may write,
    and its operations on them; `take` makes a handle of a dma-buf, which it does not close, and
    `make` a dma-buf of a new buffer."""

    def __init__(self, take: Callable[[int], int], make: Callable[[], int]) -> None:
        self._take = take
        self._make = make
        self._inbox: Inbox | None = None
        self._handles: list[int] = []

    def inbox(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"address"}: where another workload may send a buffer to."""
        arguments.done()
        if self._inbox is None:
            self._inbox = Inbox()
        return {"address": self._inbox.address}

    def adopt(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"buffer": number}: the buffer that was sent, for jobs to write."""
        arguments.done()
        if self._inbox is None:
            raise usage("nobody knows where to send a buffer", cure="ask for the inbox first")
        fd = self._inbox.receive(SECONDS)
        try:
            self._handles.append(self._take(fd))
        finally:
            os.close(fd)
        return {"buffer": len(self._handles)}

    def lend(self, arguments: Arguments) -> dict[str, Any]:
        """{to: address} -> {"buffer": number}: make one, and send it to another workload."""
        address = arguments.text("to")
        arguments.done()
        fd = self._make()
        try:
            send(fd, address)
            self._handles.append(self._take(fd))
        finally:
            os.close(fd)
        return {"buffer": len(self._handles)}

    def chosen(self, arguments: Arguments) -> int | None:
        """The handle that the argument `writes` means, None where it is not given."""
        number: int | None = arguments.integer("writes", None)
        if number is None:
            return None
        if not 0 < number <= len(self._handles):
            raise usage(f"no buffer {number}", cure="see what adopt returned")
        return self._handles[number - 1]


def export(node: int, handle: int) -> int:
    """The dma-buf of a buffer of an open DRM node, the caller's to close.  Raises AgentError."""
    request = drm.DrmPrimeHandle(handle=handle, flags=drm.PRIME_RDWR)
    perform(node, drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, request)
    return int(request.fd)


def send(fd: int, address: str) -> None:
    """Give `fd` to the inbox at `address`; it is still the caller's.  Raises AgentError."""
    if not address.startswith(_PREFIX):
        raise usage(f"{address!r} is no inbox", cure="pass the address that inbox returned")
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        try:
            out.connect(f"\0{address}")
            socket.send_fds(out, [b"b"], [fd])
        except OSError as error:
            raise _unreached(address, error) from error


def _unreached(address: str, error: OSError) -> AgentError:
    return target(
        f"the inbox {address} cannot be reached: {error.strerror}",
        cure="see whether its workload still runs",
        number=error.errno,
    )
