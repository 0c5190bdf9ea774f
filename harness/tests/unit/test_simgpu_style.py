"""simgpu's C is in the kernel's style, as the kernel's own checkpatch judges it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.link.virtual import cache_root
from tools.setup.packages import SOURCE

SIMGPU = Path(__file__).parents[3] / "tools/simgpu"
UNPACKED = cache_root() / "work/kernel/source"
NEEDED = ("checkpatch.pl", "const_structs.checkpatch", "spelling.txt")


def _extract(tarball: Path, into: Path) -> None:
    """Only what checkpatch needs; stops reading when it has all."""
    missing = set(NEEDED)
    with tarfile.open(tarball, "r|*") as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")[2].partition("/")
            if folder == "scripts" and name in missing:
                data = archive.extractfile(member)
                assert data is not None
                (into / name).write_bytes(data.read())
                missing.remove(name)
                if not missing:
                    return
    raise AssertionError(f"{tarball} has no scripts/{missing}")


@pytest.fixture(scope="module")
def checkpatch() -> Path:
    """The script, from the unpacked kernel source, or once out of Debian's tarball."""
    if shutil.which("perl") is None:
        pytest.skip("no perl, which checkpatch is written in")
    scripts = UNPACKED / "scripts"
    if all((scripts / name).exists() for name in NEEDED):
        return scripts / NEEDED[0]
    try:
        stat = SOURCE.stat()
    except OSError:
        pytest.skip(f"no kernel source to take checkpatch from: neither {UNPACKED} nor {SOURCE}")
    key = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    kept = cache_root() / f"checkpatch-{key}"
    if not kept.exists():
        partial = kept.with_name(kept.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _extract(SOURCE, partial)
        partial.rename(kept)
    return kept / NEEDED[0]


def test_checkpatch_finds_nothing(checkpatch: Path) -> None:
    sources = sorted(SIMGPU.glob("*.[ch]"))
    assert len(sources) > 20
    done = subprocess.run(
        ["perl", checkpatch, "--no-tree", "--no-summary", "--terse", "-f", *sources],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
