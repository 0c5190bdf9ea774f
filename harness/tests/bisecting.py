"""A bisect without a machine: its kernels are names, its runs are written at once.

As a program, `FOLDER COMMITS CULPRIT NUMBER(before|after)`, it stands still in that run, before
or after the run's verdict is on disk, and waits there to be killed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from harness.bisect.bisection import Bisection, Setting
from harness.bisect.history import Commit, History
from harness.bisect.kernels import Kernel, Kernels, Workshop
from harness.bisect.oracle import Wanted
from harness.bisect.runner import Ran, Runner
from harness.evidence.files import write_json
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir
from harness.verdict import Verdict

__all__ = ["SECONDS", "SPLAT", "TEST", "WANTED", "commit_id", "make"]

Shows = Callable[[int, int], bool]
SECONDS = 1e-5
"""Of one run, much less than what a boot takes here."""
TEST = "testcases/test_a.py::test_b"
SPLAT = Finding("lockdep", "fail", "lock inversion in a_reset", "abcdef012345", text="the splat")
WANTED = Wanted(SPLAT.signature)


def commit_id(number: int) -> str:
    """40 hex digits."""
    return f"{number:040x}"


class _Shelf:
    """Every kernel is there already."""

    def get(self, commit: str) -> Kernel:
        return Kernel(directory=commit, builds={"amdgpu": commit})

    def known(self, commit: str) -> bool:
        return True


class _Runner:
    """Knows the culprit."""

    def __init__(self, culprit: int, stop: str, broken: bool, shows: Shows) -> None:
        self.culprit, self.stop, self.broken, self.shows = culprit, stop, broken, shows

    def run(self, kernel: Kernel, runs: Path, tries: int = 1) -> Ran:
        runs.mkdir(parents=True)
        if self.stop == f"{int(runs.name)}before":
            self._stand(runs)
        if self.broken:
            return Ran(None, "the link broke")
        run = RunDir.create(runs, "box")
        run.update(kernel={"builds": kernel.builds})
        for attempt in range(1, tries + 1):
            test = TEST if attempt == 1 else f"{TEST}[@{attempt}]"
            bad = int(kernel.directory, 16) >= self.culprit and self.shows(int(runs.name), attempt)
            verdict = Verdict(test, "pass", "", "armed", seconds=SECONDS)
            if bad:
                verdict = Verdict(test, "fail", SPLAT.title, "armed", (SPLAT,), seconds=SECONDS)
            write_json(run.test(test) / "verdict.json", verdict)
            run.journal.add("test-start", test=test)
            if bad:
                break
        run.journal.add("run-end", how="done")
        run.journal.close()
        if self.stop == f"{int(runs.name)}after":
            self._stand(runs)
        return Ran(run.path)

    def found(self, runs: Path) -> Path | None:
        return Runner.found(runs)

    def _stand(self, runs: Path) -> None:
        (runs.parent.parent / "stopped").touch()
        signal.pause()


def make(
    folder: Path,
    commits: int,
    culprit: int,
    *,
    wanted: Wanted | None = WANTED,
    most_runs: int = 100,
    stop: str = "",
    broken_lab: bool = False,
    per_boot: int = 1,
    seen: tuple[int, int] = (20, 20),
    shows: Shows = lambda boot, attempt: True,
) -> Bisection:
    """A new one in `folder`, or that which is there; `shows` says in which attempts of which boot
    a bad kernel shows it."""
    line = tuple(
        Commit(commit_id(n), f"change <b>{n}</b>", "A <a@example.invalid>", (n - 1,) if n else ())
        for n in range(commits)
    )
    setting = Setting(
        history=History("tree", line), good=("v1",), bad="v2", target="box", inventory="none",
        test=TEST, wanted=wanted, confidence=0.99, unrelated=0.005, seen=seen[1], seen_bad=seen[0],
        build=("none",), under="", store="none", install=(), extra=(), limit_s=1.0,
        most_runs=most_runs, per_boot=per_boot,
    )  # fmt: skip
    setting.save(folder)
    shelf = _Shelf()
    return Bisection(
        setting,
        folder,
        Workshop(cast("Kernels", shelf)),
        shelf.known,
        cast("Runner", _Runner(culprit, stop, broken_lab, shows)),
        print,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), stop=sys.argv[4]).go()
