"""Where a console's bytes come from: a socket, a serial port, or a command's terminal.

Each is a file descriptor to poll, with read, write and close; none knows what
flows through it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import termios
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pexpect

from harness import inventory
from harness.errors import LabError, UsageError
from harness.inventory import Target

__all__ = ["CommandSource", "SerialSource", "SocketSource", "Source", "source_for"]


class Source(Protocol):
    """Bytes from and to a console."""

    def fileno(self) -> int:
        """What to poll for reading."""

    def read(self, limit: int) -> bytes:
        """1..`limit` bytes that are there; b"" at the end."""

    def write(self, data: bytes) -> None:
        """Type all of `data`.  Raises OSError when the other end is gone."""

    def close(self) -> None:
        """Let go of it.  Idempotent."""


class SocketSource:
    """A connected stream socket (QEMU's serial chardev)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self, limit: int) -> bytes:
        try:
            return self._sock.recv(limit)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


class _Terminal:
    """A terminal's file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def read(self, limit: int) -> bytes:
        while True:
            try:
                return os.read(self._fd, limit)
            except BlockingIOError:
                return b""
            except InterruptedError:
                continue
            except OSError as error:
                # EIO: a pty's other end closed, or the USB adapter was pulled.
                if error.errno in (errno.EIO, errno.ENXIO, errno.EBADF, errno.ENODEV):
                    return b""
                raise

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]


class SerialSource(_Terminal):
    """A serial port of this host, raw, 8N1, ours alone while open."""

    def __init__(self, port: str, baud: int, *, target: str) -> None:
        """Raises LabError when it cannot be opened, UsageError for a speed there is none of."""
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise UsageError(
                f"no such serial speed: {baud}", where=target, cure="use 115200 or another standard"
            )
        try:
            # O_NONBLOCK: an open would otherwise wait for carrier detect.
            fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise LabError(
                f"cannot open serial port {port}: {error.strerror}", where=target, cure=_cure(error)
            ) from error
        try:
            # The lock is between harnesses, TIOCEXCL against everyone but root.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.ioctl(fd, termios.TIOCEXCL)
            tty.setraw(fd)
            settings = termios.tcgetattr(fd)
            settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL  # cflag
            settings[4] = settings[5] = speed
            termios.tcsetattr(fd, termios.TCSANOW, settings)
            os.set_blocking(fd, True)
        except (OSError, termios.error) as error:
            os.close(fd)
            raise LabError(
                f"cannot use serial port {port}: {error}",
                where=target,
                cure="is it a serial port, and does another program hold it? `fuser -v PORT`",
            ) from error
        super().__init__(fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, termios.TIOCNXCL)
            os.close(fd)


class CommandSource(_Terminal):
    """A command of this host that is the console (conserver, amtterm, ipmitool sol)."""

    def __init__(self, argv: Sequence[str], *, target: str) -> None:
        """Raises LabError when it cannot be started."""
        try:
            self._child = pexpect.spawn(argv[0], list(argv[1:]), timeout=None, echo=False)
        except (pexpect.ExceptionPexpect, OSError) as error:
            raise LabError(
                f"cannot start console command {argv[0]!r}: {error}",
                where=target,
                cure="install it, or mend console.argv in targets.toml",
            ) from error
        super().__init__(self._child.child_fd)

    def close(self) -> None:
        if not self._child.closed:
            self._child.close(force=True)


def source_for(target: Target) -> Source | None:
    """The configured console of a target with an address; None when there is none.

    Raises LabError when it cannot be opened.
    """
    match target.console:
        case inventory.SerialConsole(port=port, baud=baud):
            return SerialSource(str(Path(port).expanduser()), baud, target=target.name)
        case inventory.CommandConsole(argv=argv):
            return CommandSource(argv, target=target.name)
        case _:
            return None


def _cure(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "add yourself to its group (usually dialout) and log in again"
    if error.errno == errno.EBUSY:
        return "another program holds it: `fuser -v PORT`"
    return "plug it in; mend console.port in targets.toml"
