"""Nights over both virtual machines, three of each: planted failures, a box that dies, a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.lab.diff import compare
from harness.lab.history import History, default_url
from harness.tests.inner import NAVI, ROOT

VICTIMS = "harness/tests/vm/victims/night.py"
NAVIS, GEN3S = ("navi-1", "navi-2", "navi-3"), ("gen3-1", "gen3-2", "gen3-3")
KNOWN = f"""
[issues.everybody]
title = "everybody knows"
state = "fail"
bug = "https://bugs.example/1"
expires = 2999-12-31
test = "{VICTIMS}::test_known"
driver = "i915"
"""


def listed(path: Path, dead: str = "") -> None:
    """All six; `dead` finds no root and panics whenever it boots."""
    with path.open("w") as out:
        for name in (*NAVIS, *GEN3S):
            driver, gpu, words = NAVI if name in NAVIS else ("i915", 'chip = "g33"', "")
            words += " init=/nothing" if name == dead else ""
            boot_s = 60 if name == dead else 600
            out.write(
                f'[targets.{name}]\ndriver = "{driver}"\ndestructive = true\n'
                f'vm = {{ {gpu}, cmdline = "{words.strip()}" }}\n'
                f"limits = {{ boot_s = {boot_s}, command_s = 60 }}\n"
            )


@pytest.mark.deep
def test_the_morning_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    (tmp_path / "known-issues.toml").write_text(KNOWN)

    def argv(*args: str) -> list[str]:
        lab = [sys.executable, "-m", "harness.cli", f"--inventory={tmp_path}/targets.toml"]
        return [*lab, "nightly", f"--runs={runs}", "--jobs=1", *args]

    def night(plant: str, *args: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("NIGHT_PLANT", plant)
        return subprocess.run(
            argv(*args), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    listed(tmp_path / "targets.toml")
    first = night("known@gen3-1", "--", VICTIMS)
    assert first.returncode == 0, first.stdout
    # The flake's first night, on its own target.
    second = night("flaky@navi-2", "--targets=navi-2", "--", VICTIMS)
    assert second.returncode == 1, second.stdout
    # The third is killed while it runs, and gone on with.
    listed(tmp_path / "targets.toml", dead="gen3-3")
    monkeypatch.setenv("NIGHT_PLANT", "known@gen3-1 steady@navi-1")
    killed = subprocess.Popen(argv("--", VICTIMS), cwd=ROOT)
    deadline = Deadline(1800)
    while not begun(runs) and killed.poll() is None:
        assert deadline.pause(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_for_end(pid_of(runs))
    third = night("known@gen3-1 steady@navi-1", "--resume")
    assert third.returncode == 1, third.stdout
    with History.open(default_url(runs)) as history:
        diff = compare(history)
        assert len(history.nights()) == 3
    assert [(c.kind, c.target, c.test.rpartition("_")[2]) for c in diff.changes] == [
        ("new", "navi-1", "steady"),
        ("flaky", "navi-2", "flaky"),
        ("missing", "gen3-3", ""),
        ("known", "gen3-1", "known"),
    ], third.stdout
    assert diff.ran == 15
    assert diff.after.how == "done"
    page = (runs / "site" / "index.html").read_text()
    assert "it broke" in page
    assert "gen3-3" in page


def newest(runs: Path) -> list[dict[str, object]]:
    """The journal of the newest night."""
    return list(journal.read(sorted((runs / "nights").iterdir())[-1] / "night.jsonl"))


def begun(runs: Path) -> bool:
    """Whether the newest night's second target is at its tests: the first has ended."""
    nights = sorted((runs / "nights").iterdir())
    if len(nights) < 3:
        return False
    started = [e["target"] for e in newest(runs) if e["what"] == "target-start"]
    if len(started) < 2:
        return False
    found = sorted(runs.glob(f"*-{started[-1]}-*/journal.jsonl"))
    return bool(found) and bool(journal.unfinished(found[-1]) or _ran(found[-1]))


def _ran(path: Path) -> bool:
    # Of an earlier night it has its end too.
    what = [entry["what"] for entry in journal.read(path)]
    return "test-start" in what and "run-end" not in what


def pid_of(runs: Path) -> int:
    """Of the session that was started last."""
    pids = [entry["pid"] for entry in newest(runs) if entry["what"] == "target-start"]
    return int(str(pids[-1]))


def wait_for_end(pid: int) -> None:
    """A session does not outlive its night."""
    deadline = Deadline(600)
    while Path(f"/proc/{pid}").exists():
        assert deadline.pause(0.1)
