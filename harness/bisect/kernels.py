"""Kernels of commits: built by a command, kept by what they were built from.

A builder is any command: `ARGV TREE COMMIT OUT` fills the directory OUT and exits with 0; with 3
the lab is at fault (a full disk), with anything else that commit has no kernel.
tools.kernel.commit is one; a script that copies prebuilt kernels is another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.bisect.history import git
from harness.errors import HarnessError, LabError, UsageError
from harness.evidence.files import write_bytes, write_json
from harness.link.kept import Kept

__all__ = ["Kernel", "Kernels", "Unbuildable", "Workshop", "commit_built", "trouble_in"]

# What a builder says about the kernel that it made.
BUILT = "built.json"
# Below a store: the commit of each build id, for a later bisect that meets it in a run.
_COMMITS = "commits"
_LAB_STATUS = LabError.exit_status
_TELL_LINES = 3
# A kernel that was asked for within that many seconds may be another bisect's, who boots it.
_FRESH_S = 24 * 3600.0
# What a disk, a memory or the OOM killer makes of a build: what strerror(3) says ends its line, so
# that no string in quoted source is taken for it; then gcc's, its linker's, make's and sh's words.
_TROUBLE = re.compile(
    r": (?:No space left on device|Disk quota exceeded|Cannot allocate memory"
    r"|Read-only file system|Input/output error)\.?$"
    r"|fatal error: Killed signal terminated program|terminated with signal 9 \[Killed\]"
    r"|failed with status -9;|^(?:\S+: )?out of memory allocating \d+ bytes"
    r"|^make(?:\[\d+\])?: \*\*\* .*(?:Killed|Error 137)$|^/bin/sh: line \d+: +\d+ Killed ",
    re.MULTILINE,
)


class Unbuildable(HarnessError):
    """That commit has no kernel: it does not build, or one of the lab's patches does not apply."""

    fault = "no kernel"


def trouble_in(log: str) -> str:
    """The line of a build's output by which it failed for want of disk or memory, or ""."""
    found = _TROUBLE.search(log)
    if found is None:
        return ""
    return log[log.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0].strip()


def commit_built(root: Path, builds: dict[str, str]) -> str:
    """The commit that a kernel with these build ids was built from below `root`, or "".  The
    kernel's own comes first; of commits that share what was built it is the one asked for first."""
    for name in sorted(builds, key=lambda name: (name != "vmlinux", name)):
        known = root / _COMMITS / Path(builds[name]).name
        if builds[name] and known.is_file():
            return known.read_text().strip()
    return ""


class Kernel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A kernel that can be put on a target: built.json.  Names are files beside it."""

    image: str = ""
    """bzImage; "" where only modules were built."""
    modules: str = ""
    """An ext4 image of /lib/modules for a virtual target."""
    builds: dict[str, str] = {}
    """Build ids: of "vmlinux", or of a module by its name."""
    directory: str = ""

    def file(self, name: str) -> Path:
        """One of its files."""
        return Path(self.directory) / name


class Kernels:
    """The kernels of one tree, each made at most once."""

    def __init__(self, tree: Path, root: Path, command: Sequence[str], under: str = "") -> None:
        """They lie below `root`, which may be shared by several bisects.  `under`: the folder of
        the tree that alone decides what is built (a module's); commits that share it share the
        kernel."""
        if not command:
            raise UsageError("no command to build kernels with", cure="give --build or --prebuilt")
        self.tree, self.root = tree, root
        self.command = tuple(command)
        self.under = under.strip("/")
        self._keys: dict[str, str] = {}

    def learn(self, commits: Sequence[str]) -> None:
        """Look up what each is built from, all in one go."""
        names = [f"{one}:{self.under}" if self.under else f"{one}^{{tree}}" for one in commits]
        asked = ["cat-file", "--batch-check=%(objectname)"]
        said = git(self.tree, *asked, stdin="".join(f"{name}\n" for name in names)).stdout
        for commit, line in zip(commits, said.splitlines(), strict=True):
            # Without that folder there is nothing to build; the builder says so.
            content = commit if line.endswith(" missing") else line
            parts = "\0".join([content, self.under, *self.command])
            self._keys[commit] = hashlib.sha256(parts.encode()).hexdigest()[:16]

    def key(self, commit: str) -> str:
        """Of what it is built from: the tree or folder of that commit, and the command."""
        if commit not in self._keys:
            self.learn([commit])
        return self._keys[commit]

    def known(self, commit: str) -> bool:
        """Whether it costs nothing now: it is built, or known not to build."""
        place = self.root / self.key(commit)
        return (place / BUILT).exists() or (place / "unbuildable").exists()

    def get(self, commit: str) -> Kernel:
        """Build it if it is not there.  Raises Unbuildable, LabError."""
        place = self.root / self.key(commit)
        with self._alone(place) as lock:
            if (place / "unbuildable").exists():
                raise Unbuildable((place / "unbuildable").read_text(), where=commit[:12])
            if not (place / BUILT).exists():
                self._build(commit, place, lock)
            os.utime(place)
        try:
            made = msgspec.json.decode((place / BUILT).read_bytes(), type=Kernel)
        except (OSError, msgspec.DecodeError) as error:
            raise LabError(
                f"the builder left no usable {BUILT}: {error}",
                where=str(place),
                cure=f"mend {self.command[0]}; see harness/bisect/kernels.py for what it says",
            ) from error
        self._remember(commit, made.builds)
        return msgspec.structs.replace(made, directory=str(place))

    def _remember(self, commit: str, builds: dict[str, str]) -> None:
        for build in builds.values():
            known = self.root / _COMMITS / build
            if build and not known.exists():
                known.parent.mkdir(exist_ok=True)
                write_bytes(known, f"{commit}\n".encode())

    def prune(self, keep: set[str], most: int) -> None:
        """Remove the oldest kernels beyond `most`, but for those of the commits in `keep` and those
        that were asked for within a day."""
        spared = {self.key(commit) for commit in keep}
        made = [path for path in self.root.glob("*") if (path / BUILT).exists()]
        made.sort(key=_asked_at, reverse=True)
        for path in made[most:]:
            if path.name in spared:
                continue
            with self._alone(path):
                if time.time() - _asked_at(path) > _FRESH_S:
                    shutil.rmtree(path)

    @contextmanager
    def _alone(self, place: Path) -> Iterator[int]:
        """One of all bisects that share the store; its lock is inherited by the builder."""
        lock = place.with_name(f"{place.name}.lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _no_room(lock, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _build(self, commit: str, place: Path, lock: int) -> None:
        part = place.with_name(f"{place.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        except OSError as error:
            raise _no_room(part, error) from error
        log = self.root / f"{place.name}.log"
        log.write_bytes(b"")
        # It ends when we do: a build that outlived us would meet the next one.
        built = Kept([*self.command, str(self.tree), commit, str(part)], fds=[lock], stderr=log)
        try:
            built.wait()
            status = built.status
        finally:
            built.end()
            built.forget()
        text = log.read_text(errors="replace")
        trouble = trouble_in(text)
        lines = text.strip().splitlines()
        said = "; ".join(lines[-_TELL_LINES:])[-600:] or f"exit status {status}"
        if status == 0:
            part.rename(place)
        elif status == _LAB_STATUS or (status or 0) >= 128 or trouble:
            raise LabError(
                f"the builder could not work: {trouble or said}",
                where=str(log),
                cure="mend what it says, then go on with --resume",
            )
        else:
            write_json(part / "log.json", lines[-200:])
            (part / "unbuildable").write_text(said)
            part.rename(place)
            raise Unbuildable(said, where=commit[:12])


def _asked_at(place: Path) -> float:
    """When it was built or last asked for; now, where another bisect has removed it."""
    try:
        return place.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _no_room(path: Path, error: OSError) -> LabError:
    return LabError(
        f"cannot make room for a kernel: {error.strerror}",
        where=str(path),
        cure="free space there, then go on with --resume",
    )


class Workshop:
    """Builds ahead of the tests: one build at a time, what is waited for first."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._turn = threading.Condition()
        self._urgent: str | None = None
        self._likely: list[str] = []
        self._results: dict[str, Kernel | HarnessError] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="kernels", daemon=True)
        self._thread.start()

    def expect(self, commits: Sequence[str]) -> None:
        """What is likely to be wanted next, the likeliest first, instead of what was before."""
        with self._turn:
            self._likely = [one for one in commits if not self._kernels.known(one)]
            self._turn.notify_all()

    def get(self, commit: str) -> Kernel:
        """As Kernels.get, after at most the one build that is going on."""
        with self._turn:
            self._results.pop(commit, None)
            self._urgent = commit
            self._turn.notify_all()
            self._turn.wait_for(lambda: commit in self._results)
            result = self._results.pop(commit)
        if isinstance(result, HarnessError):
            raise result
        return result

    def close(self) -> None:
        """No more builds; one that is going on goes on until this process ends."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _next(self) -> str | None:
        if self._urgent is not None:
            commit, self._urgent = self._urgent, None
            return commit
        return self._likely.pop(0) if self._likely else None

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or self._urgent or self._likely)
                if self._closed:
                    return
                commit = self._next()
            if commit is None:
                continue
            result: Kernel | HarnessError
            try:
                result = self._kernels.get(commit)
            except HarnessError as error:
                result = error
            except OSError as error:
                result = LabError(
                    f"a kernel cannot be built: {error}", where=commit[:12], cure="check the disk"
                )
            with self._turn:
                self._results[commit] = result
                self._turn.notify_all()
