"""One boot and one test run of a commit's kernel, in a process of its own, as the desk does it.

A virtual target boots what its manifest names, so the run gets a manifest of its own; a box gets
its kernel as its `boot` in targets.toml says, or by a command of its keeper's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from harness import ways
from harness.bisect.kernels import Kernel
from harness.errors import LabError
from harness.evidence.files import disk_error, write_json
from harness.inventory import Target
from harness.link.kept import Kept
from harness.link.virtual import load_manifest

__all__ = ["Ran", "Runner"]

_ROOT = Path(__file__).resolve().parents[2]


class Ran(Struct, frozen=True):
    """How a session of pytest ended."""

    run: Path | None
    """Its run directory; None where it made none."""
    trouble: str = ""
    """Why what it left says nothing, or ""."""


class Runner:
    """Runs one test on one target."""

    def __init__(
        self,
        inventory: Path,
        target: Target,
        test: str,
        home: Path,
        *,
        limit_s: float,
        install: Sequence[str] = (),
        extra: Sequence[str] = (),
    ) -> None:
        """`home` is the cache directory of the sessions; `install` puts a kernel on a box:
        ARGV DIRECTORY TARGET, done when the target runs it; `extra` arguments go to pytest."""
        self.inventory, self.target, self.test = inventory, target, test
        self.home, self.limit_s = home, limit_s
        self.install, self.extra = tuple(install), tuple(extra)

    def run(self, kernel: Kernel, runs: Path, tries: int = 1) -> Ran:
        """Run the test with `kernel`, up to `tries` times in its boot, until it fails; its run
        directory goes below `runs`.

        Raises LabError where this host cannot do it.
        """
        try:
            runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(runs, error) from error
        if trouble := self._place(kernel, runs):
            return Ran(None, trouble)
        argv = [
            *("env", f"--chdir={_ROOT}", f"XDG_CACHE_HOME={self.home}"),
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", self.test),
            *(f"--target={self.target.name}", f"--inventory={self.inventory}", f"--runs={runs}"),
            # What is known of may be what is searched for: nothing is excused, unless by `extra`.
            f"--known={os.devnull}",
            # A test named with its [parameters] is taken for its first repetition alone.
            # It puts it there itself, and again after each boot that was another kernel's.
            *((f"--boot={kernel.directory}",) if self.boots else ()),
            *(("--until-fail", f"--count={tries}") if tries > 1 else ()),
            *self.extra,
        ]
        limit_s = tries * self.limit_s
        # It ends when we do, and takes its machine with it: nobody else would stop them.
        session = Kept(argv, fds=[], stderr=runs / "pytest.txt")
        try:
            ended = session.wait(limit_s)
        finally:
            session.end()
            session.forget()
        trouble = "" if ended else f"the run did not end within {limit_s:g} s"
        return Ran(self.found(runs), trouble)

    @staticmethod
    def found(runs: Path) -> Path | None:
        """The run directory below `runs`."""
        made = sorted(path.parent for path in runs.glob("*/journal.jsonl"))
        return made[-1] if made else None

    @property
    def boots(self) -> bool:
        """Whether the session boots the kernel, by what targets.toml says."""
        as_is = isinstance(self.target.boot, ways.AsIsBoot)
        return not (self.target.virtual or self.install or as_is)

    def _place(self, kernel: Kernel, runs: Path) -> str:
        """Put it where the target boots it; why that failed, or ""."""
        if self.target.virtual:
            made = load_manifest()
            changed = msgspec.structs.replace(
                made,
                kernel=str(kernel.file(kernel.image)) if kernel.image else made.kernel,
                modules=str(kernel.file(kernel.modules)) if kernel.modules else made.modules,
            )
            place = self.home / "tdrlab/virtual.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, changed)
            return ""
        if self.boots:
            return ""
        if not self.install:
            raise LabError(
                "nothing puts a kernel on it",
                where=self.target.name,
                cure='boot = { kind = "grub" } in targets.toml (or systemd-boot, pxe), or --install'
                " COMMAND: it gets the kernel's directory and the target's name",
            )
        argv = [*self.install, kernel.directory, self.target.name]
        try:
            with (runs / "install.txt").open("wb") as out:
                done = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=self.limit_s
                )
        except OSError as error:
            raise LabError(
                f"the install command cannot be started: {error.strerror}",
                where=argv[0],
                cure="mend --install",
            ) from error
        except subprocess.TimeoutExpired:
            return f"the install command did not end within {self.limit_s:g} s"
        if done.returncode != 0:
            return f"the install command ended with status {done.returncode}"
        return ""
