"""Unpacks the userland, lays our files and keys over it, makes an ext4 image of it.

A script of its own (stdlib only), so that one fakeroot covers all of it: owners
set while unpacking are what mke2fs then reads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]


def main(rootfs: Path, files: Path, keys: Path, tree: Path, image: Path, size: str) -> None:
    """See tools.image.build.build_root.  Raises CalledProcessError, OSError."""
    tree.mkdir()
    # The kernel mounts devtmpfs on /dev; device nodes would need real privileges.
    subprocess.run(["tar", "-C", tree, "--exclude=./dev/*", "-xf", rootfs], check=True)
    _overlay(files, tree)
    for name in ("init", "reboot", "poweroff", "halt"):
        _link("/bin/busybox", tree / "usr/sbin" / name)
    (tree / "lib/modules").mkdir(parents=True, exist_ok=True)
    _ssh(keys, tree)
    _account(tree, "gpu", uid=1000, groups=("video", "render"))
    mke2fs = shutil.which("mke2fs") or "/sbin/mke2fs"
    flags = ["-q", "-F", "-t", "ext4", "-L", "root", "-m", "0"]
    subprocess.run([mke2fs, *flags, "-d", tree, image, size], check=True)


def _overlay(files: Path, tree: Path) -> None:
    """Our files, root's, executable as they are in the repository."""
    for source in sorted(files.rglob("*")):
        target = tree / source.relative_to(files)
        if source.is_dir():
            target.mkdir(exist_ok=True)
            continue
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        os.chown(target, 0, 0)


def _link(to: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _ssh(keys: Path, tree: Path) -> None:
    """One host key, the one the client pins; one key that may log in."""
    for made in (tree / "etc/ssh").glob("ssh_host_*"):
        made.unlink()
    for name in ("host", "host.pub"):
        suffix = name.removeprefix("host")
        _put(keys / name, tree / f"etc/ssh/ssh_host_ed25519_key{suffix}", 0o600)
    home = tree / "root/.ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, 0, 0)
    _put(keys / "client.pub", home / "authorized_keys", 0o600)


def _put(source: Path, target: Path, mode: int) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)
    os.chown(target, 0, 0)


def _account(tree: Path, name: str, *, uid: int, groups: tuple[str, ...]) -> None:
    """An unprivileged user that may use the GPU, for people who try things by hand."""
    with open(tree / "etc/passwd", "a") as file:
        file.write(f"{name}:*:{uid}:{uid}::/home/{name}:/bin/bash\n")
    path = tree / "etc/group"
    lines = []
    for line in path.read_text().splitlines():
        group, _, rest = line.partition(":")
        if group in groups:
            line += f",{name}" if rest.rpartition(":")[2] else name
        lines.append(line)
    path.write_text("\n".join([*lines, f"{name}:x:{uid}:", ""]))
    home = tree / "home" / name
    home.mkdir()
    os.chown(home, uid, uid)


if __name__ == "__main__":
    rootfs, files, keys, tree, image = map(Path, sys.argv[1:6])
    main(rootfs, files, keys, tree, image, sys.argv[6])
