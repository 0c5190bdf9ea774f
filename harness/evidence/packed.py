"""Old streams, compressed: NAME becomes NAME.zst, and whoever reads NAME goes on as before.

A reader asks `plain` for a path that it can open, seek in and map; what is packed is unpacked
into a folder of this process's own.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import zstandard

from harness.errors import LabError
from harness.evidence.files import disk_error

__all__ = ["SUFFIX", "pack", "plain", "restore"]

SUFFIX = ".zst"
# zstd's levels go to 22; from here on they cost far more than they save.
_LEVEL = 9
_CHUNK = 1 << 20
# As many unpacked streams are kept, or a whole folder's; the oldest makes room.
_KEPT = 16
_unpacked: dict[tuple[str, int], Path] = {}


def plain(path: Path) -> Path:
    """`path` as it is, or unpacked where only its packed form is there.

    It may not be there either way: that is for its reader to see.  Raises LabError where the
    packed one is damaged, or this host's disk is full.
    """
    packed = path.with_name(path.name + SUFFIX)
    if path.exists() or not packed.exists():
        return path
    key = (str(packed.resolve()), packed.stat().st_mtime_ns)
    if key not in _unpacked:
        # Who still reads one of another folder has it open; one of this folder may only have been
        # asked for, as a trace does for each of its CPUs before it opens any.
        beside = packed.resolve().parent
        others = [old for old in _unpacked if Path(old[0]).parent != beside]
        for old in others[: max(0, len(_unpacked) - _KEPT + 1)]:
            _unpacked.pop(old).unlink(missing_ok=True)
        name = hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()[:16]
        target = _folder(os.getpid()) / f"{name}-{path.name}"
        _unpack(packed, target)
        _unpacked[key] = target
    return _unpacked[key]


def restore(path: Path) -> None:
    """Put `path` back where only its packed form is there, for who wants to append to it.

    A crash at any moment leaves the one or the other, or both.  Raises LabError (disk full, ...).
    """
    packed = path.with_name(path.name + SUFFIX)
    if path.exists() or not packed.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _unpack(packed, temporary)
    try:
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        packed.unlink()
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def pack(path: Path) -> int:
    """Replace `path` by its packed form, once that has been read back; the bytes that saved.

    A crash at any moment leaves the one or the other, or both.  Where a packed one is there that
    holds something else, both stay and nothing is saved.  Raises LabError (disk full, ...).
    """
    packed = path.with_name(path.name + SUFFIX)
    if packed.exists() and not _begins_with(path, packed):
        return 0
    temporary = path.with_name(f".{packed.name}.{os.getpid()}")
    try:
        with path.open("rb") as source, temporary.open("wb") as out:
            zstandard.ZstdCompressor(_LEVEL, write_checksum=True).copy_stream(source, out)
            out.flush()
            os.fsync(out.fileno())
        before = path.stat()
        if _digest(temporary, packed=True) != _digest(path):
            raise LabError(
                "a packed stream does not unpack to what it was",
                where=str(path),
                cure="check this host's disk and memory",
            )
        os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = temporary.stat().st_size
        temporary.replace(packed)
        path.unlink()
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return before.st_size - after


def _unpack(packed: Path, target: Path) -> None:
    """Write what `packed` holds to `target`; nothing is left where that fails."""
    try:
        with packed.open("rb") as source, target.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(source, out, _CHUNK, _CHUNK)
    except zstandard.ZstdError as error:
        target.unlink(missing_ok=True)
        raise LabError(
            f"cannot read evidence: {error}", where=str(packed), cure="restore it from a backup"
        ) from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise disk_error(target, error) from error


def _begins_with(path: Path, packed: Path) -> bool:
    """Whether nothing that `packed` holds would be lost with it."""
    try:
        with path.open("rb") as plain_, packed.open("rb") as raw:
            stream = zstandard.ZstdDecompressor().stream_reader(raw)
            while data := stream.read(_CHUNK):
                if plain_.read(len(data)) != data:
                    return False
    except zstandard.ZstdError:
        return False
    except OSError as error:
        raise disk_error(path, error) from error
    return True


def _digest(path: Path, *, packed: bool = False) -> bytes:
    seen = hashlib.sha256()
    with path.open("rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if packed else raw
        while data := stream.read(_CHUNK):
            seen.update(data)
    return seen.digest()


@lru_cache(maxsize=4)
def _folder(pid: int) -> Path:
    """Of the process `pid`, which is this one: a forked child makes its own."""
    made = Path(tempfile.mkdtemp(prefix="tdrlab-unpacked-"))
    atexit.register(_remove, pid, made)
    _unpacked.clear()
    return made


def _remove(pid: int, folder: Path) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
