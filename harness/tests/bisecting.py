"""A bisect without a machine: its kernels are names, its runs are written at once.

As a program, `FOLDER COMMITS CULPRIT NUMBER(before|after)`, it stands still in that run, before
or after the run's verdict is on disk, and waits there to be killed.
"""

from __future__ import annotations

import signal
import sys
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

__all__ = ["SPLAT", "TEST", "WANTED", "commit_id", "make"]

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

    def __init__(self, culprit: int, stop: str, broken: bool) -> None:
        self.culprit, self.stop, self.broken = culprit, stop, broken

    def run(self, kernel: Kernel, runs: Path) -> Ran:
        runs.mkdir(parents=True)
        if self.stop == f"{int(runs.name)}before":
            self._stand(runs)
        if self.broken:
            return Ran(None, "the link broke")
        run = RunDir.create(runs, "box")
        run.update(kernel={"builds": kernel.builds})
        bad = int(kernel.directory, 16) >= self.culprit
        verdict = Verdict(TEST, "pass", "", "armed")
        if bad:
            verdict = Verdict(TEST, "fail", SPLAT.title, "armed", (SPLAT,))
        write_json(run.test(TEST) / "verdict.json", verdict)
        run.journal.add("test-start", test=TEST)
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
) -> Bisection:
    """A new one in `folder`, or that which is there."""
    line = tuple(
        Commit(commit_id(n), f"change <b>{n}</b>", "A <a@example.invalid>", (n - 1,) if n else ())
        for n in range(commits)
    )
    setting = Setting(
        history=History("tree", line), good=("v1",), bad="v2", target="box", inventory="none",
        test=TEST, wanted=wanted, confidence=0.99, unrelated=0.005, seen=20, seen_bad=20,
        build=("none",), under="", store="none", install=(), extra=(), limit_s=1.0,
        most_runs=most_runs,
    )  # fmt: skip
    setting.save(folder)
    shelf = _Shelf()
    return Bisection(
        setting,
        folder,
        Workshop(cast("Kernels", shelf)),
        shelf.known,
        cast("Runner", _Runner(culprit, stop, broken_lab)),
        print,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), stop=sys.argv[4]).go()
