"""The night's parts without a target: what is told before it begins, and what is said after it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness.cli import main
from harness.errors import LabError
from harness.evidence import journal
from harness.lab import nightly, nights, summary
from harness.lab.board import Lines, LiveTable, board_for
from harness.lab.claims import Answer
from harness.lab.diff import Diff, compare
from harness.lab.history import History, default_url
from harness.lab.ingest import read_night
from harness.lab.nightly import Job, Settings
from harness.lab.nights import NightDir, Plan, run_of
from harness.lab.progress import Progress
from harness.tests.inner import ROOT
from harness.tests.nights import Test, night_of

HANG = "testcases/test_hang.py::test_recovers[gfx]"
LIST = """
[targets.navi]
driver = "amdgpu"
tags = ["fast"]
vm = { gpu = "ati-vga" }
[targets.gen3]
driver = "i915"
vm = { chip = "g33" }
"""


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    path = tmp_path / "targets.toml"
    path.write_text(LIST)
    return path


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--targets=slow"], 2, "no target has the name or tag slow"),
        (["--budget=soon"], 2, "write 90, 45m, 2h or 30d"),
        (["--resume"], 2, "there is no night to go on with"),
        (["--resume", "--", "-k", "x"], 2, "with the targets and tests that it began with"),
        (["--resume", "--kernel=6.12*"], 2, "with the targets and tests that it began with"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    targets: Path, words: list[str], status: int, said: str
) -> None:
    done = CliRunner().invoke(main, [f"--inventory={targets}", "nightly", *words])
    assert done.exit_code == status
    assert said in done.output
    assert not (targets.parent / "runs").exists()


def test_a_session_that_cannot_begin(targets: Path) -> None:
    """The rest of the night goes on, and so does the next night."""
    runs = targets.parent / "runs"
    words = ["nightly", "--targets=fast", "--kernel=6.12*", "--", "testcases/no_such.py"]
    done = CliRunner().invoke(main, [f"--inventory={targets}", *words])
    assert done.exit_code == summary.LAB, done.output
    assert "pytest ended with 4" in done.output
    assert "file or directory not found" in done.output
    (night,) = (runs / "nights").iterdir()
    entries = list(journal.read(night / "night.jsonl"))
    assert [entry["what"] for entry in entries] == [
        *("night-start", "target-start", "target-end", "night-end")
    ]
    assert entries[0]["targets"] == ["navi"]
    assert entries[0]["args"] == ["--kernel=6.12*", "testcases/no_such.py"]


def test_a_target_that_somebody_else_has_did_not_run(tmp_path: Path) -> None:
    """There is no run that could tell; the session itself came to its end, with errors."""
    code = "print('a: lab error: a: held by root'); raise SystemExit(1)"
    settings = Settings(tmp_path, tmp_path / "targets.toml", program=(sys.executable, "-c", code))
    night = NightDir.create(tmp_path, Plan(("a",), ()))
    assert nightly.run(night, settings, Lines(Console(file=io.StringIO()))) == "done"
    night.close("done")
    with History.open(default_url(tmp_path)) as history:
        history.add([tmp_path])
        diff = compare(history)
    assert [(c.kind, c.target, c.why) for c in diff.changes] == [
        ("missing", "a", "a: held by root")
    ]
    assert summary.status(diff) == summary.LAB


def test_the_rest_of_a_night_is_known_from_its_journal(tmp_path: Path) -> None:
    night = NightDir.create(tmp_path, Plan(("a", "b", "c"), ("-k", "x")))
    night.started("a", 1, None)
    night.ended("a", "unfit", done=True)
    night.started("b", 2, None)
    night.ended("b", "the night was interrupted", done=False)
    again = NightDir.resume(night.path)
    assert again.plan == night.plan
    assert again.left() == ["b", "c"]
    assert again.done == {"a": "unfit"}
    other = NightDir.create(tmp_path, Plan((), ()))
    assert other.name != night.name


def test_sessions_of_a_killed_night_are_waited_for(tmp_path: Path) -> None:
    night = NightDir.create(tmp_path, Plan(("a", "b"), ()))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as mine:
        night.started("a", mine.pid, None)
        # Of a night of another boot, say: the number is somebody else's now.
        night.journal.add("target-start", target="b", pid=os.getpid(), began=1, resumed="")
        again = NightDir.resume(night.path)
        assert again.held() == ["a"]
        mine.communicate(b"\n")
        assert again.held() == []


def test_a_run_is_found_by_what_it_says_of_itself(tmp_path: Path) -> None:
    name = night_of(tmp_path, 0, {"a": [Test(HANG)], "b-a-c": [Test(HANG)]})
    found = run_of(tmp_path, name, "a")
    assert found is not None
    assert "-a-" in found.name
    assert "-b-" not in found.name
    assert run_of(tmp_path, name, "a", [found.name]) is None
    assert run_of(tmp_path, "another night", "a") is None


def test_progress_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    progress = Progress(path)
    assert progress.advance() == []
    path.write_text('{"what":"test-start","test":"t1"}\n{"what":"test-e')
    assert (progress.advance(), progress.now) == ([], "t1")
    with path.open("a") as out:
        out.write('nd","test":"t1","outcome":"fail"}\ntorn}\n{"what":"unfit","reason":"dead"}\n')
    assert progress.advance() == [("t1", "fail")]
    assert (progress.now, progress.told(), progress.trouble) == ("", "1 fail", "dead")


def test_a_terminal_has_a_table_and_a_log_has_lines() -> None:
    log = io.StringIO()
    with board_for(Console(file=log)) as board:
        assert type(board) is Lines
        board.show([Job("navi", "running")])
        board.say("navi: [red]fail[/]: x[gfx]")
    assert log.getvalue().endswith(" navi: [red]fail[/]: x[gfx]\n")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with board_for(console) as board:
        assert isinstance(board, LiveTable)
        board.show([Job("na[b]vi", "running", seconds=61), Job("gen3")])
    assert "na[b]vi" in screen.getvalue()
    assert "1:01" in screen.getvalue()
    assert "1 waiting, 0 ended" in screen.getvalue()


@pytest.fixture
def morning(tmp_path: Path) -> Diff:
    """Two drivers, three targets each: a known issue, a flake, a regression and a dead box."""
    good = Test(HANG)
    known = Test(HANG, "xfail", "deadlock", reason="known issue dl: it waits", known=("dl",))
    bad = Test(HANG, "fail", "WARNING in x")
    usual = {"navi-1": [good], "navi-2": [good], "navi-3": [good]}
    usual |= {"gen3-1": [known], "gen3-2": [known], "gen3-3": [known]}
    night_of(tmp_path, 0, usual)
    night_of(tmp_path, 1, usual | {"navi-2": [bad]})
    changed = usual | {"navi-1": [Test(HANG, "fail", "KASAN in y")]}
    del changed["gen3-3"]
    night_of(tmp_path, 2, changed, {"gen3-3": "recovery failed: no answer"})
    with History.open(default_url(tmp_path)) as history:
        history.add([tmp_path])
        return compare(history)


def test_the_morning(morning: Diff) -> None:
    assert [(c.kind, c.target) for c in morning.changes] == [
        ("new", "navi-1"),
        ("flaky", "navi-2"),
        ("missing", "gen3-3"),
        ("known", "gen3-1"),
        ("known", "gen3-2"),
    ]
    assert summary.status(morning) == summary.REGRESSIONS
    told = summary.text(morning)
    assert "1 new, 1 newly flaky, 1 did not run, 2 known issues; 5 tests judged" in told
    assert "KASAN in y" in told
    assert "recovery failed: no answer (1 test)" in told
    assert "passes again on the same kernel: 1 of 3 failed" in told


def test_notify_gets_the_summary(morning: Diff, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text("
        "os.environ['LAB_STATUS'] + sys.stdin.read())"
    )
    told = summary.text(morning)
    summary.notify([sys.executable, "-c", code, str(out)], told, morning, 1)
    assert out.read_text() == "regressions" + told
    for argv, said in ((["false"], "ended with 1"), (["/no/such"], "No such file")):
        with pytest.raises(LabError, match=said):
            summary.notify(argv, told, morning, 1)


@pytest.mark.parametrize("place", ["testcases/test_hang.py", "harness/tests", "x.py::test_y"])
def test_places_that_are_named_are_all_that_is_run(tmp_path: Path, place: str) -> None:
    night = NightDir.create(tmp_path, Plan(("a",), ("-k", "gfx", place)))
    words = nightly.argv("a", night, Settings(tmp_path, tmp_path / "targets.toml"), None)
    assert words[-3:] == ["-k", "gfx", place]
    assert "testcases" not in words


def test_pytest_is_asked_for_this_target_only(tmp_path: Path) -> None:
    night = NightDir.create(tmp_path, Plan(("a",), ("-k", "gfx")))
    settings = Settings(tmp_path, tmp_path / "targets.toml")
    words = nightly.argv("a", night, settings, None)
    assert [word for word in words if word.startswith("--target=")] == ["--target=a"]
    assert f"--night={night.name}" in words
    assert words[-3:] == ["testcases", "-k", "gfx"]
    again = nightly.argv("a", night, settings, tmp_path / "x")
    assert f"--resume={tmp_path / 'x'}" in again


@pytest.mark.parametrize("words", [["--boot", "{}"], ["--boot={}"]], ids=["apart", "joined"])
def test_a_kernel_is_named_from_where_one_stands(
    targets: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """And is no place of tests, though it is a path; nor is what other options are given."""
    (targets.parent / "testcases").mkdir()
    monkeypatch.chdir(targets.parent)
    asked = [word.format("testcases") for word in words]
    monkeypatch.setattr(nightly, "run", lambda *_: "done")
    done = CliRunner().invoke(main, [f"--inventory={targets}", "nightly", "--", *asked])
    night = NightDir.resume(nights.newest(targets.parent / "runs"))
    assert night.plan.args == (f"--boot={targets.parent}/testcases",), done.output
    monkeypatch.chdir("/")  # where it is resumed
    settings = Settings(targets.parent / "runs", targets)
    argv = nightly.argv("navi", night, settings, None)
    assert argv[-2:] == ["testcases", f"--boot={targets.parent}/testcases"]


@pytest.mark.parametrize(
    "words",
    [["-k", "testcases"], ["--deselect", "testcases/a.py::b"], ["--deselect=testcases/a.py::b"]],
)
def test_what_an_option_is_given_is_no_place(tmp_path: Path, words: list[str]) -> None:
    night = NightDir.create(tmp_path, Plan(("a",), tuple(words)))
    argv = nightly.argv("a", night, Settings(tmp_path, tmp_path / "targets.toml"), None)
    assert argv[-len(words) - 1 :] == ["testcases", *words]


def test_the_systemd_units_are_valid() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    units = sorted((ROOT / "tools/systemd").glob("tdrlab-nightly@.*"))
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    argv = ["systemd-analyze", "verify", "--recursive-errors=no", *map(str, units)]
    done = subprocess.run(argv, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "tdrlab" not in done.stderr


class Scripted:
    """Claims that answer as they were told, the last answer for ever."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers
        self.ended: list[tuple[str, bool]] = []
        self.closed = False

    def ask(self, target: str) -> Answer:
        left = self.answers[target]
        return left.pop(0) if len(left) > 1 else left[0]

    def end(self, target: str, *, done: bool) -> None:
        self.ended.append((target, done))

    def close(self) -> None:
        self.closed = True


def test_only_what_is_ours_is_tested_and_the_others_do_not_hold_it_up(tmp_path: Path) -> None:
    claims = Scripted(
        busy=[Answer("busy", "held by somebody")],
        done=[Answer("done", "rack2")],
        wrong=[Answer("failed", "there is no such place")],
        ours=[Answer("busy", "held by somebody"), Answer("ours", env={"SAID": "it is yours"})],
    )
    night = NightDir.create(tmp_path, Plan(("busy", "done", "wrong", "ours"), ()))
    code = "import os; print(os.environ['SAID'])"
    settings = Settings(
        tmp_path, tmp_path / "targets.toml", wait_s=0.5, program=(sys.executable, "-c", code)
    )
    out = io.StringIO()
    with board_for(Console(file=out)) as board:
        assert nightly.run(night, settings, board, claims) == "done"
    night.close("done")
    assert night.log("ours").read_text() == "it is yours\n"
    assert (claims.ended, claims.closed) == ([("ours", True)], True)
    assert out.getvalue().count("busy: waiting: held by somebody") == 1
    assert "done: tested by rack2" in out.getvalue()
    # What another tested is in the other's night.
    assert read_night(night.path).targets == {
        "busy": "held by somebody",
        "wrong": "there is no such place",
        "ours": "",
    }
    assert sorted(NightDir.resume(night.path).left()) == ["busy", "wrong"]


@pytest.mark.parametrize(("status", "done"), [(0, True), (1, True), (3, False)])
def test_who_came_to_no_end_leaves_the_target_to_others(
    tmp_path: Path, status: int, done: bool
) -> None:
    claims = Scripted(box=[Answer("ours")])
    night = NightDir.create(tmp_path, Plan(("box",), ()))
    program = (sys.executable, "-c", f"raise SystemExit({status})")
    with board_for(Console(file=io.StringIO())) as board:
        settings = Settings(tmp_path, tmp_path / "targets.toml", program=program)
        nightly.run(night, settings, board, claims)
    night.close("done")
    assert (claims.ended, claims.closed) == ([("box", done)], True)
