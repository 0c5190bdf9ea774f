"""The disks of the virtual target: a Debian userland, and the kernel's modules.

Two images, so that new modules need no new root.  Works for any user: without
root, mmdebstrap unshares and the packing runs under fakeroot.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tools.setup.cache import digest, digest_files
from tools.setup.command import run

__all__ = ["build_root", "build_rootfs", "pack_modules", "root_key", "rootfs_key"]

_HERE = Path(__file__).parent
_FILES = _HERE / "files"
_PACK = _HERE / "pack.py"
_SUITE = "bookworm"
# Raise it when this file or pack.py changes what comes out.
_RECIPE = "1"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Sparse: what is not written takes no space on the host.
_ROOT_SIZE = "1G"
_MODULES_SIZE = "128M"


def packages() -> list[str]:
    """Names in the package list."""
    lines = (_HERE / "packages").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def rootfs_key() -> str:
    """Changes when the userland must be fetched again."""
    return digest(_RECIPE, _SUITE, _mirror(), *_LEFT_OUT, *packages())


def root_key(client_key: str, host_key: str) -> str:
    """Changes when the root image must be packed again; both keys are public ones."""
    files = [path for path in _FILES.rglob("*") if path.is_file()]
    ours = digest_files(_HERE, [*files, _PACK])
    return digest(rootfs_key(), ours, client_key, host_key)


def build_rootfs(out: Path, *, log: Path, lock: int, on_line: Callable[[str], object]) -> None:
    """rootfs.tar into `out`.  Raises LabError when mmdebstrap fails (no network, no user
    namespaces)."""
    log.write_bytes(b"")
    mirror = [_mirror()] if _mirror() else []
    run(
        [
            "mmdebstrap",
            "--variant=essential",
            "--format=tar",
            f"--include={','.join(packages())}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
            _SUITE,
            out / "rootfs.tar",
            *mirror,
        ],
        log=log,
        lock=lock,
        on_line=on_line,
        cure="it needs Debian's archive (another mirror: export LAB_DEBIAN_MIRROR=URL) and,"
        " without root, user namespaces (sysctl kernel.unprivileged_userns_clone=1, newuidmap)",
    )


def build_root(
    rootfs: Path,
    keys: Path,
    out: Path,
    *,
    log: Path,
    lock: int,
    on_line: Callable[[str], object],
) -> None:
    """root.ext4 into `out`: the userland, our files, the SSH keys.  Raises LabError."""
    log.write_bytes(b"")
    tree, image = out / "tree", out / "root.ext4"
    words: list[str | Path] = [rootfs / "rootfs.tar", _FILES, keys, tree, image, _ROOT_SIZE]
    run([*_as_root(), sys.executable, _PACK, *words], log=log, lock=lock, on_line=on_line)
    # Unpacked under root or fakeroot: ours to remove either way.
    shutil.rmtree(tree)


def pack_modules(modules: Path, image: Path, *, log: Path, lock: int) -> None:
    """An ext4 image at `image` of the directory `modules`.  Raises LabError."""
    flags = ["-q", "-F", "-t", "ext4", "-L", "modules", "-O", "^has_journal", "-m", "0"]
    run([*_as_root(), *_mke2fs(), *flags, "-d", modules, image, _MODULES_SIZE], log=log, lock=lock)


def _as_root() -> list[str]:
    """What makes files root's in an image: nothing when we are, else fakeroot."""
    return [] if os.geteuid() == 0 else ["fakeroot", "--"]


def _mke2fs() -> list[str]:
    # Not on every user's PATH.
    return [shutil.which("mke2fs") or "/sbin/mke2fs"]


def _mirror() -> str:
    """Where Debian comes from; "" lets mmdebstrap choose."""
    return os.environ.get("LAB_DEBIAN_MIRROR", "")
