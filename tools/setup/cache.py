"""The cache that set-up fills: products named by what they were made of.

A product is a directory that appears by one rename, so it is whole or absent; a
lock per step makes a second set-up wait, and says for whom.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import LabError

__all__ = ["Cache", "digest", "digest_files", "fsync_tree", "write_atomic"]

# Products nobody has used for so long go when a newer one has been made.  A running
# machine opens its images again at a power cycle, so the last ones must stay a while.
_KEEP_S = 2 * 86400.0


class Cache:
    """The directory; made with the first lock or product."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def product(self, step: str, key: str) -> Path:
        """Where the product of `step` for `key` is, or will be."""
        return self.root / step / key[:16]

    def scratch(self, name: str) -> Path:
        """A directory kept between runs, for work that can go on where it was cut off."""
        path = self.root / "work" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, step: str) -> Path:
        """The log of the step's last run."""
        path = self.root / "logs" / f"{step}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(self, step: str, waiting: Callable[[str], object]) -> Iterator[int]:
        """Hold the step's lock; yields its descriptor, for children to inherit.

        A child that outlives a killed set-up then keeps the lock until it ends, so
        two never write the same files.  `waiting` is told who holds it, once.
        Raises LabError when the cache cannot be written.
        """
        path = self.root / "locks" / step
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
                waiting(holder or "another process")
                fcntl.flock(fd, fcntl.LOCK_EX)
            os.ftruncate(fd, 0)
            started = time.strftime("%H:%M:%S")
            os.pwrite(fd, f"process {os.getpid()}, since {started}".encode(), 0)
            yield fd
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    @contextmanager
    def making(self, step: str, key: str) -> Iterator[Path]:
        """A new directory that becomes the product when the block ends without error.

        Call it with the step's lock held: leftovers of killed runs are removed.
        """
        final = self.product(step, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob("*.part"):
            shutil.rmtree(left)
        part = final.with_name(final.name + ".part")
        part.mkdir()
        try:
            yield part
            fsync_tree(part)
            if final.exists():
                shutil.rmtree(final)
            part.rename(final)
            _fsync(final.parent)
        except OSError as error:
            raise _unwritable(final, error) from error

    def used(self, product: Path) -> None:
        """Note that `product` is in use, so that `prune` keeps it."""
        os.utime(product)

    def prune(self, step: str, keep: Path) -> list[Path]:
        """Remove the step's other products not used for two days; returns them."""
        gone = []
        for path in (self.root / step).glob("*"):
            idle = time.time() - path.stat().st_mtime
            if path != keep and idle > _KEEP_S:
                shutil.rmtree(path)
                gone.append(path)
        return gone

    def size(self) -> int:
        """Bytes on disk, all in all."""
        total = 0
        for directory, _, names in os.walk(self.root):
            for name in names:
                # A file of a build that is going on may be gone by now.
                try:
                    total += os.lstat(os.path.join(directory, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
        return total


def digest(*parts: str | bytes) -> str:
    """SHA-256 over `parts`, each with its length, so that no two lists collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()


def digest_files(base: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over names below `base`, executable bits and contents, in order of name."""
    parts: list[str | bytes] = []
    for path in sorted(paths):
        parts += [str(path.relative_to(base)), str(os.access(path, os.X_OK)), path.read_bytes()]
    return digest(*parts)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """`path` has either its old contents or all of `data`, whenever we are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def fsync_tree(root: Path) -> None:
    """All files below `root` are on disk when this returns."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                _fsync(path)
        _fsync(Path(directory))


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(path: Path, error: OSError) -> LabError:
    return LabError(
        f"cannot write the cache: {error.strerror or error}",
        where=str(path),
        cure="free space or mend the rights there, or set XDG_CACHE_HOME to another disk",
    )
