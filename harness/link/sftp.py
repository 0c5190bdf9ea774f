"""Files to and from a target: verified, and whole or not at all.

OpenSSH's SFTP server tells no errno, so what failed is found out by asking the
machine (df, sha256sum) instead of by guessing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import secrets
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

import paramiko

from harness.deadline import Deadline
from harness.errors import TargetError

if TYPE_CHECKING:
    from harness.link.ssh import Ssh

__all__ = ["get", "put"]

_CHUNK = 32 << 10


def put(ssh: Ssh, data: bytes, path: str, mode: int, deadline: Deadline) -> bool:
    """See Ssh.put."""
    digest = hashlib.sha256(data).hexdigest()
    folder, name = posixpath.split(path)
    part = posixpath.join(folder, f".{name}.{secrets.token_hex(4)}.part")
    with _client(ssh, deadline) as client:
        if _same(client, path, data, mode) and _digest(ssh, path, deadline) == digest:
            return False
        may_be_full = True
        try:
            _write(ssh, client, part, data, mode, deadline)
            if _digest(ssh, part, deadline) == digest:
                may_be_full = False
                client.posix_rename(part, path)
                return True
            why = "what arrived differs from what was sent"
        except OSError as error:
            if client.sock.closed:
                raise ssh.broken(deadline, f"while writing {path}") from error
            # The two errors that SFTP does tell; a full disk is a bare "Failure".
            may_be_full = may_be_full and error.errno not in (errno.ENOENT, errno.EACCES)
            why = error.strerror or str(error)
        with contextlib.suppress(OSError):
            client.remove(part)
    raise _refused(ssh, path, len(data), why, may_be_full, deadline)


def get(ssh: Ssh, path: str, deadline: Deadline, limit: int) -> bytes:
    """See Ssh.get."""
    where = ssh.endpoint.where
    with _client(ssh, deadline) as client:
        try:
            data = bytearray()
            # Not by its size: files of proc, sysfs and debugfs say 0.
            with client.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    data += chunk
                    if len(data) > limit:
                        raise TargetError(
                            f"{path} is larger than {limit} bytes",
                            where=where,
                            cure="fetch it by parts, or raise the limit",
                        )
        except OSError as error:
            if client.sock.closed:
                raise ssh.broken(deadline, f"while reading {path}") from error
            raise TargetError(
                f"cannot read {path}: {error.strerror or error}",
                where=where,
                cure=f"see that it exists and user {ssh.endpoint.user} may read it",
            ) from error
    return bytes(data)


@contextlib.contextmanager
def _client(ssh: Ssh, deadline: Deadline) -> Iterator[paramiko.SFTPClient]:
    with ssh.session(deadline) as channel:
        try:
            channel.invoke_subsystem("sftp")
            client = paramiko.SFTPClient(channel)
        except paramiko.SSHException as error:
            transport = channel.get_transport()
            if deadline.expired() or not transport.is_active():
                raise
            raise TargetError(
                f"no SFTP there: {error}",
                where=ssh.endpoint.where,
                cure="install openssh-sftp-server, or add `Subsystem sftp internal-sftp` to its"
                " sshd_config",
            ) from error
        yield client


def _same(client: paramiko.SFTPClient, path: str, data: bytes, mode: int) -> bool:
    """Whether a plain file of that size and mode is there; its content is asked for only then."""
    try:
        there = client.stat(path)
    except OSError:
        return False
    return there.st_mode == (stat.S_IFREG | mode) and there.st_size == len(data)


def _write(
    ssh: Ssh, client: paramiko.SFTPClient, part: str, data: bytes, mode: int, deadline: Deadline
) -> None:
    try:
        file = client.open(part, "wbx")
    except OSError as error:
        folder = posixpath.dirname(part)
        if error.errno != errno.ENOENT or not folder:
            raise
        ssh.run(["mkdir", "-p", "--", folder], deadline, check=True)
        file = client.open(part, "wbx")
    with file:
        # Not pipelined: paramiko drops the errors of pipelined writes.
        for at in range(0, len(data), _CHUNK):
            file.write(data[at : at + _CHUNK])
        file.flush()
        file.chmod(mode)


def _digest(ssh: Ssh, path: str, deadline: Deadline) -> str:
    """sha256 of a file there, in hex; "" when it cannot be read."""
    done = ssh.run(["sha256sum", "--", path], deadline)
    # A name with a backslash or newline is escaped and marked so.
    return done.stdout.lstrip(b"\\")[:64].decode("ascii", "replace") if done.ok else ""


def _refused(
    ssh: Ssh, path: str, size: int, why: str, may_be_full: bool, deadline: Deadline
) -> TargetError:
    """Why the file could not be written, by what the machine says of its disk."""
    where = ssh.endpoint.where
    folder = posixpath.dirname(path) or "."
    if may_be_full:
        free = _free(ssh, folder, deadline)
        if free is not None and free < size + _CHUNK:
            return TargetError(
                f"disk full: {path} needs {size} bytes, {free} are free in {folder}",
                where=where,
                cure=f"make room there: `du -xah {folder} | sort -h | tail`, journalctl"
                " --vacuum-size=100M",
            )
    return TargetError(
        f"cannot write {path}: {why}",
        where=where,
        cure=f"see that {folder} is a directory that user {ssh.endpoint.user} may write to, and"
        " not mounted read-only",
    )


def _free(ssh: Ssh, folder: str, deadline: Deadline) -> int | None:
    """Bytes a user may still write in `folder`; None when it cannot be told."""
    done = ssh.run(["df", "-Pk", "--", folder], deadline)
    words = done.stdout.decode(errors="replace").splitlines()[-1:]
    fields = words[0].split() if done.ok and words else []
    # The device's name may hold blanks: count from the end (free, use%, mount point).
    numbers = [field for field in fields if field.isdigit()]
    return int(numbers[-1]) * 1024 if len(numbers) >= 3 else None
