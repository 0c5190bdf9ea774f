"""Where the kernel's source comes from: Debian's package, or a copy of a user's tree.

Unpacked into the cache, patched, with simgpu beside the other DRM drivers.  A
user's own tree is read, never written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError, UsageError
from tools.setup.cache import digest, write_atomic
from tools.setup.command import run
from tools.setup.packages import SOURCE

__all__ = ["PATCHES", "SIMGPU", "SUPPORTED", "Source", "place_simgpu", "source", "unpack"]

SUPPORTED = "6.12"
PATCHES = Path(__file__).parent / "patches"
SIMGPU = Path(__file__).parent.parent / "simgpu"
# Left out: 0.7 of 1.7 GB that an x86 kernel without the real amdgpu never reads.
_LEFT_OUT = (
    # Not their Kconfig files, which crypto/Kconfig reads for every architecture, and
    # nothing of um, whose Makefile.rules fs/hostfs reads though it is not built.
    "arch/[a-tvwyz]*/*.*",
    "arch/xtensa/*.*",
    "drivers/gpu/drm/amd/include",
    "Documentation/*/*",
    "tools/testing",
    "tools/perf",
)
_IN_TREE = Path("drivers/gpu/drm/simgpu")


@dataclass(frozen=True)
class Source:
    """A kernel source before it is unpacked."""

    path: Path
    """Debian's tarball, or a directory."""
    version: str
    """What the run records: package and version, or path and content."""
    key: str
    """Changes when the source does."""


def source(tree: Path | None) -> Source:
    """Debian's source, or `tree`.  Raises UsageError for another kernel than 6.12."""
    if tree is None:
        return _debian()
    tree = tree.expanduser().resolve()
    release = kernel_version(tree)
    if not release.startswith(f"{SUPPORTED}."):
        raise UsageError(
            f"is Linux {release}; simgpu and the patches are written for {SUPPORTED}",
            where=str(tree),
            cure=f"give a {SUPPORTED} tree, or leave --kernel-tree out for Debian's",
        )
    key = _tree_key(tree)
    return Source(tree, f"{tree} (Linux {release}, content {key[:12]})", key)


def kernel_version(tree: Path) -> str:
    """What the tree's Makefile says: 6.12.117.  Raises UsageError when it is no kernel tree."""
    try:
        head = (tree / "Makefile").read_text(errors="replace")[:2000]
    except OSError as error:
        raise UsageError(
            f"is no kernel tree: {error.strerror} ({error.filename})",
            where=str(tree),
            cure="give the directory that holds the kernel's Makefile",
        ) from error
    found = {
        name: match[1] if (match := re.search(rf"^{name}\s*=\s*(\S+)", head, re.M)) else ""
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")
    }
    if not all(found.values()):
        raise UsageError(
            "is no kernel tree: its Makefile names no version",
            where=str(tree),
            cure="give the directory that holds the kernel's Makefile",
        )
    return ".".join(found.values())


def unpack(
    source: Source, into: Path, *, log: Path, lock: int, on_line: Callable[[str], object]
) -> None:
    """Source and patches in `into`; anything half done there before is begun anew.

    Raises LabError when a patch does not apply.
    """
    done = into / ".tdrlab-source"
    stamp = digest(source.key, *_LEFT_OUT, *(p.read_bytes() for p in patches())).encode()
    if done.exists() and done.read_bytes() == stamp:
        return
    on_line("removing the old source")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    on_line("unpacking the source")
    if source.path.is_dir():
        skip = ("--exclude=./.git", *(f"--exclude=./{name}" for name in _LEFT_OUT))
        copy = into.parent / "tree.tar"
        run(["tar", "-C", source.path, *skip, "-cf", copy, "."], log=log, lock=lock)
        run(["tar", "-C", into, "-xf", copy], log=log, lock=lock)
        copy.unlink()
        # Built in place once, it would refuse to be built elsewhere; this is our copy.
        run(["make", "-C", into, "-s", "mrproper"], log=log, lock=lock)
    else:
        skip = tuple(f"--exclude=*/{name}" for name in _LEFT_OUT)
        strip = ("--strip-components=1", "--no-same-owner")
        run(["tar", "-C", into, *strip, *skip, "-xJf", source.path], log=log, lock=lock)
    release = kernel_version(into)
    if not release.startswith(f"{SUPPORTED}."):
        raise UsageError(f"is Linux {release}, not {SUPPORTED}", where=str(source.path))
    for patch in patches():
        on_line(f"applying {patch.name}")
        run(
            ["patch", "-d", into, "-p1", "--forward", "--fuzz=0", "-i", patch],
            log=log,
            lock=lock,
            cure=f"this tree is not the one {patch.name} is for: rebase the patch",
        )
    (into / _IN_TREE).mkdir()
    write_atomic(done, stamp)


def place_simgpu(into: Path) -> bool:
    """Make the tree's simgpu the repository's; whether anything changed.

    Only files that differ are written, so that make rebuilds only what they touch.
    """
    there = into / _IN_TREE
    changed = False
    ours = {path.name: path.read_bytes() for path in simgpu_files()}
    for path in there.iterdir():
        if path.name not in ours:
            path.unlink()
            changed = True
    for name, data in ours.items():
        path = there / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
            changed = True
    return changed


def patches() -> list[Path]:
    """Our patches, in the order they apply."""
    return sorted(PATCHES.glob("*.patch"))


def simgpu_files() -> list[Path]:
    """simgpu's sources."""
    wanted = (".c", ".h")
    return sorted(
        path
        for path in SIMGPU.iterdir()
        if path.is_file() and (path.suffix in wanted or path.name in ("Kconfig", "Makefile"))
    )


def _debian() -> Source:
    try:
        stat = SOURCE.stat()
    except OSError as error:
        raise LabError(
            f"the kernel's source is not there: {error.strerror}",
            where=str(SOURCE),
            cure=f"apt-get install linux-source-{SUPPORTED}",
        ) from error
    package = f"linux-source-{SUPPORTED}"
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        version = asked.stdout.strip() if asked.returncode == 0 else ""
    except FileNotFoundError:
        version = ""
    # Without dpkg's word, size and date stand for the version: hashing 150 MB takes too long.
    version = version or f"unknown-{stat.st_size}-{int(stat.st_mtime)}"
    return Source(SOURCE, f"{package} {version}", digest(package, version))


def _tree_key(tree: Path) -> str:
    """Names, sizes and times of all files: reading a gigabyte at every start would hurt."""
    parts = []
    for directory, below, names in os.walk(tree):
        below[:] = sorted(d for d in below if d != ".git")
        for name in sorted(names):
            path = os.path.join(directory, name)
            stat = os.lstat(path)
            parts.append(f"{os.path.relpath(path, tree)} {stat.st_size} {stat.st_mtime_ns}")
    return digest("tree", *parts)
