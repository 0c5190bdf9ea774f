"""Nights over virtual machines of both drivers: planted failures, a box that dies, a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.lab.diff import Diff, compare
from harness.lab.history import History, default_url
from harness.tests.inner import NAVI, ROOT
from harness.tests.sites import lists

VICTIMS = "harness/tests/vm/victims/night.py"
TESTS = ("test_known", "test_survives", "test_flaky", "test_steady")
NAVIS, GEN3 = ("navi-1", "navi-2", "navi-3"), "gen3-1"
KNOWN = f"""
[issues.everybody]
title = "everybody knows"
state = "fail"
bug = "https://bugs.example/1"
expires = 2999-12-31
test = "{VICTIMS}::test_known"
driver = "i915"
"""
# What is wrong from the second night on: an issue somebody knows of, and a driver that recovers
# with a lock that fence waiters hold.
WRONG = "known@gen3-1 steady@navi-1"
# Longest that two machines of a night may take on a host that does much else, in seconds.
LOADED_S = 1800.0


class Lab:
    """Four machines, two at once, and all nights over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        (folder / "known-issues.toml").write_text(KNOWN)
        self.listed()

    def listed(self, dead: str = "") -> None:
        """All four; `dead` finds no root and panics whenever it boots."""
        with (self.folder / "targets.toml").open("w") as out:
            for name in (*NAVIS, GEN3):
                driver, gpu, words = NAVI if name in NAVIS else ("i915", 'chip = "g33"', "")
                words += " init=/nothing" if name == dead else ""
                out.write(
                    f'[targets.{name}]\ndriver = "{driver}"\ndestructive = true\n'
                    f'vm = {{ {gpu}, cmdline = "{words.strip()}" }}\n'
                    "limits = { boot_s = 600, command_s = 60 }\n"
                )

    def start(self, plant: str, *args: str) -> subprocess.Popen[str]:
        """A night, its words on a pipe."""
        lab = [sys.executable, "-m", "harness.cli", f"--inventory={self.folder}/targets.toml"]
        return subprocess.Popen(
            [*lab, "nightly", f"--runs={self.runs}", "--jobs=2", *args],
            cwd=ROOT,
            env={**os.environ, "NIGHT_PLANT": plant},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def night(self, plant: str, *args: str) -> tuple[int, str]:
        """To its end: exit status, and what it said."""
        process = self.start(plant, *args)
        said, _ = process.communicate()
        return process.returncode, said

    def entries(self) -> list[dict[str, object]]:
        """The journal of the newest night."""
        path = max((self.runs / "nights").iterdir()) / "night.jsonl"
        return list(journal.read(path))

    def third_at_work(self) -> bool:
        """Whether the newest night's third target is in a test: one has ended, one is to come."""
        if not (self.runs / "nights").exists():
            return False
        started = [entry["target"] for entry in self.entries() if entry["what"] == "target-start"]
        if len(started) < 3:
            return False
        found = max(self.runs.glob(f"2*-{started[2]}-*/journal.jsonl"), default=None)
        what = [entry["what"] for entry in journal.read(found)] if found else []
        # Of an earlier night it has its end too.
        return "test-start" in what and "run-end" not in what

    def morning(self) -> Diff:
        """What the newest night changed."""
        with History.open(default_url(self.runs)) as history:
            return compare(history)


@pytest.mark.deep
def test_the_morning_after(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    status, said = lab.night("known@gen3-1", "--", VICTIMS)
    assert status == 0, said
    assert told(lab.morning()) == [("known", "gen3-1", "test_known")]

    # The second is killed while it runs, and gone on with: its sessions end by themselves.
    worst = f"{WRONG} flaky@navi-2 survives@navi-3"
    killed = lab.start(worst, "--", VICTIMS)
    deadline = Deadline(LOADED_S)
    while not lab.third_at_work():
        assert killed.poll() is None, killed.communicate()[0]
        assert deadline.pause(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    status, said = lab.night(worst, "--resume")
    assert status == 1, said
    diff = lab.morning()
    assert told(diff) == [
        ("new", "navi-1", "test_steady"),
        ("new", "navi-2", "test_flaky"),
        ("new", "navi-3", "test_survives"),
        ("known", "gen3-1", "test_known"),
    ], said
    assert (diff.ran, diff.after.how, diff.after.troubles) == (4 * len(TESTS), "done", {})
    regressed, died = diff.changes[0].now, diff.changes[2].now
    assert regressed is not None
    assert died is not None
    assert "lockdep" in [failing.kind for failing in regressed.failings]
    assert died.outcome == "incomplete"
    page = shown(lab.runs)
    for words in ("reservation_ww_class_acquire", "now and then", "sysrq triggered crash"):
        assert words in page

    # The night after, the machine that died does not even boot any more.
    lab.listed(dead="navi-3")
    status, said = lab.night(WRONG, "--", VICTIMS)
    assert status == 1, said
    diff = lab.morning()
    assert told(diff) == [
        ("flaky", "navi-2", "test_flaky"),
        ("missing", "navi-3", ""),
        ("still", "navi-1", "test_steady"),
        ("known", "gen3-1", "test_known"),
    ], said
    assert (diff.ran, diff.after.how, set(diff.after.troubles)) == (12, "done", {"navi-3"})
    since = diff.changes[2].since
    assert since is not None
    assert since.run == regressed.run
    page = shown(lab.runs)
    for words in ("panics while it boots", "passes again on the same kernel", "everybody"):
        assert words in page
    with History.open(default_url(lab.runs)) as history:
        assert len(history.nights()) == 3
        assert history.add([lab.runs]).read == 0


def told(diff: Diff) -> list[tuple[str, str, str]]:
    return [(c.kind, c.target, c.test.rpartition("::")[2]) for c in diff.changes]


def shown(runs: Path) -> str:
    """The front page, none of whose links leads nowhere."""
    front = runs / "site" / "index.html"
    lost = [link for _, link, path in lists(front) if not path.exists()]
    assert not lost
    return front.read_text()
