"""Writing a file so that a crash at any instruction leaves the old or the new one.

Streams are appended with one write(2) a chunk, so that what had reached us
outlives the harness; facts are replaced whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from harness.errors import HarnessError, LabError

__all__ = [
    "RESERVE",
    "Stream",
    "as_json",
    "disk_error",
    "give_room",
    "read_json",
    "reserve",
    "write_bytes",
    "write_json",
]

RESERVE, RESERVE_BYTES = ".reserve", 1 << 20


def write_json(path: Path, value: Any, *, derived: bool = False) -> None:
    """Replace `path` by `value` as indented JSON, as write_bytes does."""
    write_bytes(path, as_json(value), derived=derived)


def as_json(value: Any) -> bytes:
    """`value` as write_json writes it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_bytes(path: Path, data: bytes, *, derived: bool = False) -> None:
    """Replace `path` by `data`, fsynced: the old or the new is there, never a part.

    `derived`: it follows from evidence that is on disk, and can be made again from that; then it
    is not fsynced, and after this host lost its power may be anything.
    Raises LabError (disk full, ...).
    """
    try:
        _replace(path, data, derived)
    except OSError as error:
        if not give_room(path, error):
            raise disk_error(path, error) from error
        try:
            _replace(path, data, derived)
        except OSError as again:
            raise disk_error(path, again) from again


def _replace(path: Path, data: bytes, derived: bool) -> None:
    # Two threads may write the same: what came last stays.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            if not derived:
                out.flush()
                os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def reserve(directory: Path) -> None:
    """Keep room there for what must be told of a full disk.  One that cannot be kept is done
    without."""
    path = directory / RESERVE
    if not path.exists():
        try:
            path.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            path.unlink(missing_ok=True)


def give_room(path: Path, error: OSError) -> bool:
    """Whether the reserve of the run that `path` is in was there to be given up for `error`."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return False
    for parent in list(path.parents)[:4]:
        try:
            (parent / RESERVE).unlink()
        except OSError:
            continue
        return True
    return False


def read_json(path: Path) -> Any:
    """The JSON in `path`.  Raises LabError where it is absent or torn."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise LabError(
            f"cannot read evidence: {error}",
            where=str(path),
            cure="the run may have been killed before this was written; see journal.jsonl",
        ) from error


def disk_error(path: Path, error: OSError) -> LabError:
    """An OSError while writing evidence, with the cure that fits it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return LabError(
        f"cannot write evidence: {error.strerror}",
        where=str(path),
        cure="free space there, then resume the run" if full else "check the runs directory",
    )


class Stream:
    """An append-only raw stream.

    `write` is called on a link's reader thread and never raises: the first error
    is kept and raised by `check`, on the thread that judges the test, so that a
    full disk here becomes the lab's error instead of a dead reader.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """Append to `path`, at most `limit` bytes in all."""
        self.path = path
        self._limit = limit
        self.full = False
        self._failed: HarnessError | None = None
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self.size = os.fstat(self._fd).st_size
            # What another process wrote may not be on the disk yet.
            self._synced = -1 if self.size else 0
        except OSError as error:
            raise disk_error(path, error) from error

    def write(self, data: bytes) -> None:
        """Append `data`; what does not fit is refused and remembered as an error."""
        if self._failed is not None or self._fd < 0:
            return
        if self.size + len(data) > self._limit:
            self.full = True
            self._failed = LabError(
                f"the stream passed its limit of {self._limit} bytes and was cut",
                where=str(self.path),
                cure="raise policy.stream_limit, or find out what floods the log",
            )
            return
        view = memoryview(data)
        try:
            while view:
                done = os.write(self._fd, view)
                self.size += done
                view = view[done:]
        except OSError as error:
            self._failed = disk_error(self.path, error)

    def begin_line(self) -> None:
        """A line that was cut short must not swallow the next one."""
        with contextlib.suppress(OSError), self.path.open("rb") as written:
            written.seek(max(0, self.size - 1))
            if written.read(1) not in (b"", b"\n"):
                self.write(b"\n")

    @property
    def failed(self) -> bool:
        """Whether something was not written."""
        return self._failed is not None

    def check(self) -> None:
        """Raise the first error that `write` met."""
        if self._failed is not None:
            raise self._failed

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        size = self.size
        if self._fd >= 0 and size != self._synced:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                if self._fd < 0:
                    return  # whoever closed it meanwhile has done it
                raise disk_error(self.path, error) from error
            self._synced = size

    def close(self) -> None:
        """Close the file, once it is on the disk; later writes are dropped.  Idempotent."""
        try:
            self.sync()
        except LabError as error:
            self._failed = self._failed or error
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
