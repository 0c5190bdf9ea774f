"""Runs the harness as its user does, in a process of its own, and looks at what it left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.verdict import Verdict, recorded

__all__ = ["KNOWN_ISSUES", "ROOT", "Session", "known_issues", "targets_file"]

ROOT = Path(__file__).resolve().parents[2]
KNOWN_ISSUES = "known-issues.toml"
# Hypothesis: not there where only the harness is, and it takes half as long to load as that.
NOT_LOADED = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

NAVI = ("amdgpu", 'gpu = "ati-vga"', "amdgpu.lockup_timeout=2000,2000,2000,2000")


def targets_file(
    path: Path, name: str, cmdline: str = "", extra: str = "", tdr_s: int = 40, chip: str = ""
) -> Path:
    """A target list with one virtual Navi called `name`, or one modelled `chip`."""
    driver, gpu, words = ("i915", f'chip = "{chip}"', "") if chip else NAVI
    path.write_text(
        f"[targets.{name}]\n"
        f'driver = "{driver}"\n'
        "destructive = true\n"
        f'vm = {{ {gpu}, cmdline = "{f"{words} {cmdline}".strip()}" }}\n'
        f"limits = {{ boot_s = 240, tdr_s = {tdr_s}, command_s = 60 }}\n"
        f"{extra}\n"
    )
    return path


@dataclass
class Session:
    """An inner pytest: how it is called and where its runs go."""

    targets: Path
    runs: Path
    target: str

    def argv(self, *args: str) -> list[str]:
        return [
            *(sys.executable, "-m", "pytest", *NOT_LOADED),
            *(f"--target={self.target}", f"--inventory={self.targets}", f"--runs={self.runs}"),
            *args,
        ]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            self.argv(*args), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """In the background, in a process group of its own, its output in the runs directory."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with (self.runs / "output.txt").open("wb") as out:
            return subprocess.Popen(
                self.argv(*args),
                cwd=ROOT,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_heed,
            )

    def run_dirs(self) -> list[RunDir]:
        """Every run so far, oldest first."""
        return [RunDir.open(path) for path in sorted(self.runs.glob("*/"))]

    def verdicts(self) -> dict[str, Verdict]:
        """Of the newest run, by the bracketless test name where that is enough."""
        return {name.rpartition("::")[2]: v for name, v in recorded(self.run_dirs()[-1]).items()}

    def wait_for_test(self, process: subprocess.Popen[bytes], deadline: Deadline) -> Path:
        """Until a test has started and not ended; its run's journal."""

        def running() -> Path | None:
            for path in self.runs.glob("*/journal.jsonl"):
                if journal.unfinished(path):
                    return path
            return None

        found = wait(running, deadline, process)
        assert found is not None, (self.runs / "output.txt").read_text()
        return found


def known_issues() -> str:
    """The known issues of this checkout, but for those of targets of its own, to be read as
    KNOWN_ISSUES beside another target list."""
    _, *entries = re.split(r"^(?=\[issues\.)", (ROOT / KNOWN_ISSUES).read_text(), flags=re.M)
    ours = "".join(one for one in entries if not re.search("^target =", one, re.M))
    return re.sub('^bug = "(?!http)', f'bug = "{ROOT}/', ours, flags=re.M)


def _heed() -> None:
    """Ctrl-C, which whatever a shell started in the background was told to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait(
    condition: Callable[[], Path | None], deadline: Deadline, process: subprocess.Popen[bytes]
) -> Path | None:
    """The first answer of `condition` that is not None; None when time or the process ended."""
    while not deadline.expired() and process.poll() is None:
        if (answer := condition()) is not None:
            return answer
        time.sleep(0.05)
    return None


def processes_mentioning(text: str) -> list[int]:
    """Pids whose command line holds `text`, our own left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                found.append(int(entry.name))
    return found
