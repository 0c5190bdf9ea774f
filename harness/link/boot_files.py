"""A kernel's files on a target: put beside what is there, told from it, taken away again.

What every boot loader's strategy does alike.  Nothing that we did not put there is
ever written over or removed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import UsageError
from harness.link.boot import Kernel, Staged
from harness.link.ssh import Ssh

__all__ = ["IMAGE", "INITRAMFS", "PREFIX", "Files", "identity", "mark_of", "own_cmdline"]

IMAGE, INITRAMFS = "vmlinuz", "initrd.img"
PREFIX = "tdrlab-"
# In /lib/modules/RELEASE: that it is ours, and whose.
_OURS = ".tdrlab"
# Whose it is while it is not whole; no kernel's name.
_UNFINISHED = "unfinished"
# On the command line of each of ours; what follows it is the kernel's own.
_MARK = "tdrlab"


def identity(kernel: Kernel, maker: Sequence[str] = ()) -> str:
    """What tells it from any other: its content, its modules' too, its command line, and the
    `maker` of its initramfs where it gets one made."""
    digest = hashlib.sha256(f"{kernel.build_id} {kernel.release} {kernel.cmdline}".encode())
    for path in (kernel.image, kernel.initramfs):
        digest.update(b"\0" if path is None else _content(path))
    digest.update("\0".join(maker).encode())
    # A module that is built anew leaves vmlinux, and so its build id, as they were.
    if kernel.modules is not None:
        for path in _files(kernel.modules):
            digest.update(f"{path.relative_to(kernel.modules)}\0".encode())
            digest.update(hashlib.sha256(_content(path)).digest())
    return digest.hexdigest()[:12]


def own_cmdline(running: str) -> str:
    """The machine's own words of its command line: what it needs to find its disk, without what
    its boot loader or we have added."""
    words = []
    for word in running.split():
        if word.startswith(f"{_MARK}="):
            break
        if not word.startswith(("BOOT_IMAGE=", "initrd=")):
            words.append(word)
    return " ".join(words)


def mark_of(cmdline: str) -> str:
    """The name of ours that a kernel's command line says it is; "" where it is none of ours."""
    words = [word for word in cmdline.split() if word.startswith(f"{_MARK}=")]
    return words[0].partition("=")[2] if words else ""


def _files(modules: Path) -> list[Path]:
    """What of `modules` is put there, always in the same order."""
    found = (Path(folder, name) for folder, _, names in os.walk(modules) for name in names)
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the kernel to be installed: {error.strerror}",
            where=str(path),
            cure="build it, or name another",
        ) from error


class Files:
    """The kernels that we have put on the target of `ssh`: their files, below `boot`."""

    def __init__(
        self, ssh: Ssh, boot: str, modules: str, maker: Sequence[str] | None = None
    ) -> None:
        """`maker` makes an initramfs there, given its file and a release."""
        self.ssh = ssh
        self._maker = maker
        self._boot = boot
        self._modules = modules

    def folder(self, name: str) -> str:
        """Where the image and initramfs of the kernel `name` lie."""
        return f"{self._boot}/{PREFIX}{name}"

    def has_initramfs(self, kernel: Kernel) -> bool:
        """Whether it has one, or gets one made there, of its modules."""
        return kernel.initramfs is not None or self._makes(kernel)

    def cmdline(self, name: str, kernel: Kernel, deadline: Deadline) -> str:
        """The machine's own, our mark, and what `kernel` wants beside."""
        running = self.text("/proc/cmdline", deadline)
        return f"{own_cmdline(running)} {_MARK}={name} {kernel.cmdline}".strip()

    def put(self, kernel: Kernel, deadline: Deadline, *, image: bool = True) -> Staged:
        """Modules and a note of them, with `image` that and the initramfs, too.

        What is there already only becomes the newest.  Raises UsageError where its modules would
        replace those of a kernel that is not ours.
        """
        name = identity(kernel, self._maker or () if self._makes(kernel) else ())
        self._put_modules(kernel, name, deadline)
        note = f"{self.folder(name)}/release"
        if self.text(note, deadline).strip() == kernel.release:
            self.root("touch", "--", self.folder(name), deadline=deadline)
            return Staged(name, kernel)
        if image:
            self.write(f"{self.folder(name)}/{IMAGE}", _content(kernel.image), deadline)
        if image and kernel.initramfs is not None:
            path = f"{self.folder(name)}/{INITRAMFS}"
            self.write(path, _content(kernel.initramfs), deadline)
        if image and self._makes(kernel):
            path = f"{self.folder(name)}/{INITRAMFS}"
            self.root(*self._maker or (), path, kernel.release, deadline=deadline)
            self.root("sync", deadline=deadline)
        # Last: only what is whole is there.
        self.write(note, f"{kernel.release}\n".encode(), deadline)
        return Staged(name, kernel)

    def there(self, deadline: Deadline) -> list[str]:
        """The names of all of ours, newest first."""
        done = self.ssh.run(["ls", "-1t", "--", self._boot], deadline, root=True)
        names = done.stdout.decode(errors="replace").splitlines() if done.ok else []
        return [name.removeprefix(PREFIX) for name in names if re.fullmatch(f"{PREFIX}\\w+", name)]

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        """Remove all but the newest `keep`, and the one that runs; the names of the removed."""
        runs = mark_of(self.text("/proc/cmdline", deadline))
        removed = []
        for name in self.there(deadline)[keep:]:
            if name == runs:
                continue
            release = self.text(f"{self.folder(name)}/release", deadline).strip()
            modules = f"{self._modules}/{release}"
            if release and self._owner(modules, deadline) == name:
                self._drop_modules(modules, deadline)
            self.root("rm", "-rf", "--", self.folder(name), deadline=deadline)
            removed.append(name)
        return removed

    def write(self, path: str, data: bytes, deadline: Deadline) -> None:
        """Have `path` hold `data`, whole or not at all, and on the disk itself."""
        name = hashlib.sha256(path.encode()).hexdigest()[:16]
        passing = f"/var/tmp/tdrlab-boot-{name}"
        self.ssh.put(data, passing, 0o600, deadline)
        part = f"{path}.part"
        self.root("install", "-D", "-m", "644", "--", passing, part, deadline=deadline)
        self.root("mv", "-f", "--", part, path, deadline=deadline)
        self.root("sync", deadline=deadline)
        self.ssh.run(["rm", "-f", "--", passing], deadline)

    def text(self, path: str, deadline: Deadline) -> str:
        """What a file says; "" where there is none."""
        done = self.ssh.run(["cat", "--", path], deadline, root=True)
        return done.stdout.decode(errors="replace") if done.ok else ""

    def root(self, *argv: str, deadline: Deadline) -> str:
        """What a command of root's printed; it must succeed."""
        done = self.ssh.run(argv, deadline, root=True, check=True)
        return done.stdout.decode(errors="replace")

    def _makes(self, kernel: Kernel) -> bool:
        alone = kernel.initramfs is None and kernel.modules is not None
        return alone and self._maker is not None

    def _owner(self, modules: str, deadline: Deadline) -> str:
        return self.text(f"{modules}/{_OURS}", deadline).strip()

    def _put_modules(self, kernel: Kernel, name: str, deadline: Deadline) -> None:
        if kernel.modules is None:
            return
        directory = f"{self._modules}/{kernel.release}"
        owner = self._owner(directory, deadline)
        if owner == name:
            return
        exists = self.ssh.run(["test", "-e", directory], deadline, root=True).ok
        if exists and not owner:
            raise UsageError(
                f"{directory} there is of a kernel that is not ours",
                where=self.ssh.endpoint.where,
                cure="give the kernel a name of its own: CONFIG_LOCALVERSION",
            )
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(kernel.modules, arcname=".", filter=_plain)
        passing = f"/var/tmp/tdrlab-modules-{name}.tar"
        self.ssh.put(packed.getvalue(), passing, 0o600, deadline)
        if exists:
            self._drop_modules(directory, deadline)
        self._claim_modules(directory, deadline)
        self.root(*("tar", "-xf", passing, "-C", directory, "--no-same-owner"), deadline=deadline)
        self.ssh.run(["rm", "-f", "--", passing], deadline)
        if not (kernel.modules / "modules.dep").exists():
            base = self._modules.removesuffix("/lib/modules")
            self.root("depmod", "-b", base or "/", kernel.release, deadline=deadline)
        # Last: only what is whole is ours to keep.
        self.write(f"{directory}/{_OURS}", f"{name}\n".encode(), deadline)

    @property
    def _passing(self) -> str:
        """Where modules lie on their way in and out: whatever breaks off, a directory of ours that
        is named like a release says that it is ours."""
        return f"{self._modules}/{_OURS}"

    def _drop_modules(self, directory: str, deadline: Deadline) -> None:
        self.root("rm", "-rf", "--", self._passing, deadline=deadline)
        self.root("mv", "-T", "--", directory, self._passing, deadline=deadline)
        self.root("rm", "-rf", "--", self._passing, deadline=deadline)

    def _claim_modules(self, directory: str, deadline: Deadline) -> None:
        """Make `directory`, of ours and not whole."""
        self.root("rm", "-rf", "--", self._passing, deadline=deadline)
        self.root("mkdir", "-p", "--", self._passing, deadline=deadline)
        self.write(f"{self._passing}/{_OURS}", f"{_UNFINISHED}\n".encode(), deadline)
        self.root("mv", "-T", "--", self._passing, directory, deadline=deadline)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files and directories; "build" and "source" lead into a tree that is not there."""
    if not (member.isfile() or member.isdir()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
