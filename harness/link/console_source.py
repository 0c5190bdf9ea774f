"""Where a console's bytes come from: a socket, a serial port, or a command's terminal.

Each is a file descriptor to poll, with read, write, BREAK and close; none knows what
flows through it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import termios
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pexpect

from harness import ways
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link.power_ipmi import arguments, environment
from harness.link.secret import password
from harness.link.sockname import short
from harness.link.telnet import TelnetSource
from harness.link.usb_serial import find

__all__ = ["CommandSource", "SerialSource", "SocketSource", "Source", "source_for"]

# Seconds for a server to accept; the console is tried again.
_CONNECT_S = 5.0
# Seconds of silence after which a server is asked whether it lives, between such questions,
# and how many stay unanswered: a console may be silent for hours.
_KEEPALIVE = (10, 5, 3)


class Source(Protocol):
    """Bytes from and to a console."""

    def fileno(self) -> int:
        """What to poll for reading."""

    def read(self, limit: int) -> bytes | None:
        """1..`limit` bytes that are there; b"" at the end, None where nothing came after all."""

    def write(self, data: bytes) -> None:
        """Type all of `data`.  Raises OSError when the other end is gone."""

    def send_break(self) -> bool:
        """Send a BREAK; False where this way has none.  Raises OSError as `write` does."""

    def close(self) -> None:
        """Let go of it.  Idempotent."""


class SocketSource:
    """A connected stream socket: the console's bytes and nothing else."""

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

    def send_break(self) -> bool:
        return False

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

    def send_break(self) -> bool:
        return False


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

    def send_break(self) -> bool:
        try:
            termios.tcsendbreak(self._fd, 0)
        except termios.error as error:
            raise OSError(*error.args) from error
        return True

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, termios.TIOCNXCL)
            os.close(fd)


class CommandSource(_Terminal):
    """A command of this host that is the console (conserver, amtterm, ipmitool sol)."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        target: str,
        env: Mapping[str, str] | None = None,
        keys: str | None = None,
        escape: bytes = b"",
    ) -> None:
        """`keys`: what it takes for a BREAK; `escape`: what it takes for its own at a line's
        beginning, doubled when typed.  Raises LabError when it cannot be started."""
        environ = os.environ if env is None else env
        try:
            self._child = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                timeout=None,
                echo=False,
                env=environ,
            )
        except (pexpect.ExceptionPexpect, OSError) as error:
            raise LabError(
                f"cannot start console command {argv[0]!r}: {error}",
                where=target,
                cure="install it, or mend console in targets.toml",
            ) from error
        self._keys = keys
        self._escape = escape
        self._fresh = True  # at a line's beginning
        super().__init__(self._child.child_fd)

    def write(self, data: bytes) -> None:
        if self._escape and data:
            if self._fresh and data.startswith(self._escape):
                data = self._escape + data
            for newline in (b"\r", b"\n"):
                data = data.replace(newline + self._escape, newline + self._escape * 2)
            self._fresh = data.endswith((b"\r", b"\n"))
        super().write(data)

    def send_break(self) -> bool:
        if self._keys is None:
            return False
        super().write(self._keys.encode())
        return True

    def close(self) -> None:
        if not self._child.closed:
            self._child.close(force=True)


def source_for(target: Target) -> Source | None:
    """The configured console of a target with an address; None when there is none.

    Raises LabError when it cannot be opened, UsageError for what is configured wrongly.
    """
    name = target.name
    match target.console:
        case ways.SerialConsole() as spec:
            return SerialSource(str(Path(find(spec, name)).expanduser()), spec.baud, target=name)
        case ways.TcpConsole(host=host, port=port):
            return SocketSource(_connected(host, port, name))
        case ways.TelnetConsole(host=host, port=port):
            return _telnet(host, port, name)
        case ways.Rfc2217Console(host=host, port=port, baud=baud):
            return _telnet(host, port, name, baud)
        case ways.SocketConsole(path=path):
            return SocketSource(_unix(Path(path).expanduser(), name))
        case ways.SolConsole() as spec:
            return _sol(spec, name)
        case ways.CommandConsole() as spec:
            return CommandSource(spec.argv, target=name, keys=spec.send_break)
        case _:
            return None


def _connected(host: str, port: int, target: str) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout=_CONNECT_S)
    except OSError as error:
        raise LabError(
            f"no console answers at {host}:{port}: {error}",
            where=target,
            cure="is its server (ser2net) up? see console in targets.toml",
        ) from error
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle, between, count = _KEEPALIVE
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
    return sock


def _telnet(host: str, port: int, target: str, baud: int | None = None) -> TelnetSource:
    try:
        return TelnetSource(_connected(host, port, target), baud)
    except OSError as error:
        raise LabError(
            f"the console server at {host}:{port} hung up: {error}",
            where=target,
            cure="does another program hold the port? see console in targets.toml",
        ) from error


def _unix(path: Path, target: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_CONNECT_S)  # connect(2) waits while the server's backlog is full
    try:
        with short(path) as name:
            sock.connect(name)
    except OSError as error:
        sock.close()
        raise LabError(
            f"no console answers at {path}: {error}",
            where=target,
            cure="is the virtual machine up? see console.path in targets.toml",
        ) from error
    sock.settimeout(None)
    return sock


def _sol(spec: ways.SolConsole, target: str) -> Source:
    environ = environment(password(spec, target))
    # A session that an earlier harness left behind would refuse ours.
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*arguments(spec), "sol", "deactivate"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CONNECT_S,
            env=environ,
        )
    argv = (*arguments(spec), "sol", "activate")
    # ipmitool(1): "~B" at the beginning of a line sends a BREAK, "~~" types one tilde.
    return CommandSource(argv, target=target, env=environ, keys="\r~B", escape=b"~")


def _cure(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "add yourself to its group (usually dialout) and log in again"
    if error.errno == errno.EBUSY:
        return "another program holds it: `fuser -v PORT`"
    return "plug it in; mend console.port in targets.toml"
