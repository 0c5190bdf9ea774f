"""A real sshd on a free loopback port, with keys of its own.

For tests that need a target to talk to: it can be stopped, started with another
host key, and its sessions killed, as root and as a normal user.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.link.ssh import Endpoint

__all__ = ["Sshd", "free_port", "keygen", "why_not"]

_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")


def why_not() -> str:
    """Why no sshd can be started here; "" when one can."""
    if _binary() is None:
        return "no sshd here: apt-get install openssh-server"
    if shutil.which("ssh-keygen") is None:
        return "no ssh-keygen here: apt-get install openssh-client"
    if os.geteuid() == 0:
        # sshd's privilege separation directory; only root's sshd needs it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return ""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def keygen(path: Path, kind: str = "ed25519", *options: str) -> Path:
    """A new key pair at `path` and `path`.pub, without a passphrase unless `options` say so."""
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), *options]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


class Sshd:
    """One server.  `start` may be called again after `stop`, with another host key."""

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), **settings: str) -> None:
        """`settings`: further lines of sshd_config; they win over those here.

        `prefix`: a command that sshd is started through, such as one that changes namespaces.
        """
        self.folder = folder
        self._prefix = list(prefix)
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.user_key = keygen(folder / "user")
        self.host_key = keygen(folder / "host")
        self.log = folder / "sshd.log"
        authorized = folder / "authorized_keys"
        shutil.copy(self.user_key.with_suffix(".pub"), authorized)
        sftp = next((path for path in _SFTP_SERVERS if Path(path).exists()), "internal-sftp")
        self._settings = {
            "ListenAddress": "127.0.0.1",
            "Port": str(self.port),
            "PidFile": "none",
            "AuthorizedKeysFile": str(authorized),
            # tmp_path's parents may be writable by others.
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "Subsystem": f"sftp {sftp}",
            "MaxStartups": "100",
            "LogLevel": "VERBOSE",
            # The login shell must not read this user's ~/.bashrc: it costs what it likes.
            "SetEnv": f"HOME={folder}",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The listener's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, *host_keys: Path) -> Sshd:
        """Serve with `host_keys`, by default the one made first."""
        keys = host_keys or (self.host_key,)
        lines = [f"{key} {value}" for key, value in self._settings.items()]
        config = self.folder / "sshd_config"
        config.write_text("\n".join([*lines, *(f"HostKey {key}" for key in keys)]) + "\n")
        binary = _binary()
        assert binary is not None
        self._process = subprocess.Popen(
            [*self._prefix, binary, "-D", "-E", str(self.log), "-f", str(config)],
            stdin=subprocess.DEVNULL,
        )
        deadline = Deadline(10)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is not None or not deadline.pause(0.02):
                    raise RuntimeError(f"sshd did not start:\n{self.log.read_text()}") from None

    def stop(self) -> None:
        """Stop the listener and every session, as a reboot would."""
        if self._process is None:
            return
        for pid in self.sessions():
            _kill(pid)
        self._process.terminate()
        self._process.wait(timeout=10)
        for pid in self.sessions():
            _kill(pid)
        self._process = None

    def sessions(self) -> list[int]:
        """Process ids of the servers of the connections now open."""
        return [pid for pid in _children(self.pid) for pid in (*_children(pid), pid)]

    def kill_sessions(self) -> None:
        """SIGKILL every open connection's server; the listener lives."""
        # A connection just accepted may not have forked its second half yet.
        until = time.monotonic() + 5
        while not (found := self.sessions()) and time.monotonic() < until:
            time.sleep(0.01)
        for pid in found:
            _kill(pid)

    def public(self, key: Path | None = None) -> str:
        """The public key line of a host key."""
        return (key or self.host_key).with_suffix(".pub").read_text().strip()

    def fingerprint(self, key: Path | None = None) -> str:
        """As ssh-keygen -l prints it."""
        argv = ["ssh-keygen", "-lf", str((key or self.host_key).with_suffix(".pub"))]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]

    def endpoint(self, **changes: object) -> Endpoint:
        """How to reach it, with its right keys unless `changes` say otherwise."""
        facts: dict[str, object] = {
            "target": "loop",
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "key": self.user_key,
            "host_key": self.public(),
        }
        return Endpoint(**{**facts, **changes})  # type: ignore[arg-type]


def _binary() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _children(pid: int) -> list[int]:
    """Child processes that are sshd's own, not the commands of a session."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found if _comm(int(child)).startswith("sshd")]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
