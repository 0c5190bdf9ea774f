"""A git history of simgpu in which one commit breaks recovery, for a bisect to find.

Every commit changes a driver file without changing what it does; the culprit lets recovery
allocate, now and then, where a fence is owed: lockdep's own finding, with a signature.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.tests.inner import ROOT

__all__ = ["FOLDER", "MODULE", "Planted", "plant"]

FOLDER = "tools/simgpu"
MODULE = f"{FOLDER}:drivers/gpu/drm/simgpu/amdgpu"
# Where recovery begins in sim_reset.c, after which the culprit puts its line.
_AFTER = '\tdev_info(dev, "GPU reset begin!\\n");\n'
_BROKEN = "\tif (get_random_u32_below(100) < %d)\n\t\tkfree(kmalloc(64, GFP_KERNEL));\n"
# Files that the other commits touch, in turns; none of them is read by another.
_FILES = ("sim_crc.c", "sim_pm4.c", "sim_va.c", "sim_list.c")


@dataclass(frozen=True)
class Planted:
    """The repository: `good` is its first commit, `bad` its last."""

    tree: Path
    commits: tuple[str, ...]
    culprit: str

    @property
    def good(self) -> str:
        """What the history begins with."""
        return self.commits[0]

    @property
    def bad(self) -> str:
        """The tip."""
        return self.commits[-1]


def plant(tree: Path, commits: int, at: int, percent: int, unbuildable: int = -1) -> Planted:
    """`commits` after the good one, of which number `at` (from 1) breaks recovery in `percent`
    of the resets; number `unbuildable` does not compile, and the one after it mends that."""
    there = tree / FOLDER
    there.mkdir(parents=True)
    for path in (ROOT / FOLDER).iterdir():
        if path.suffix in (".c", ".h") or path.name in ("Kconfig", "Makefile"):
            (there / path.name).write_bytes(path.read_bytes())
    _git(tree, "init", "-q", "-b", "main")
    made = [_commit(tree, "simgpu as it is")]
    for number in range(1, commits + 1):
        path = there / _FILES[number % len(_FILES)]
        text = path.read_text().replace("#error planted\n", "")
        lines = [line for line in text.splitlines() if not line.startswith("/* round")]
        path.write_text("\n".join([*lines, f"/* round {number} */", ""]))
        if number == unbuildable:
            path.write_text(path.read_text() + "#error planted\n")
        elif number == unbuildable + 1:
            broken = there / _FILES[unbuildable % len(_FILES)]
            broken.write_text(broken.read_text().replace("#error planted\n", ""))
        if number == at:
            reset = there / "sim_reset.c"
            whole = reset.read_text()
            assert whole.count(_AFTER) == 1
            whole = whole.replace(_AFTER, _AFTER + _BROKEN % percent)
            reset.write_text(whole.replace("#include", "#include <linux/random.h>\n#include", 1))
        made.append(_commit(tree, f"simgpu: round {number}"))
    return Planted(tree, tuple(made), made[at])


def _commit(tree: Path, title: str) -> str:
    _git(tree, "add", "-A")
    _git(tree, "commit", "-q", "-m", title)
    return _git(tree, "rev-parse", "HEAD")


def _git(tree: Path, *words: str) -> str:
    who = ["-c", "user.name=Lab", "-c", "user.email=lab@example.invalid"]
    argv = ["git", "-C", str(tree), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
