"""`lab known` and `lab repro`: entries that are written, found wanting, and failures counted."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness import known
from harness.cli import main
from harness.errors import UsageError
from harness.evidence.finding import Finding, Place, signature
from harness.evidence.rundir import RunDir, Window, attempt_of
from harness.known import Issue, KnownIssues, overlap
from harness.lab import knowing, repro
from harness.lab.casefile import Case, case_of
from harness.lab.history import History, default_url
from harness.lab.rates import Rate
from harness.tests.nights import Test, night_of, run_of
from harness.verdict import Verdict

HANG = "testcases/test_hang.py::test_recovers[gfx]"
TODAY = date(2026, 6, 1)
FILE = """# Ours.  This comment must stay.
[issues.old]  # so must this
title = "old"
state = "fail"
bug = "https://bugs.example/1"
expires = 2027-01-01
signature = "0123456789ab"
"""


def failed(folder: Path, *findings: Finding, said: str = "", outcome: str = "fail") -> Case:
    """One failed test as it lies on disk."""
    path = run_of(folder, "navi", [Test(HANG)], kernel="6.12.117-lab")
    run = RunDir.open(path)
    window = Window(test=HANG, boot_id="b0", first_seq=1, offset=0, body="failed", body_text=said)
    place = run.test(HANG)
    (place / "window.json").write_bytes(msgspec.json.encode(window))
    verdict = Verdict(HANG, outcome, said or "x", "armed", findings)  # type: ignore[arg-type]
    (place / "verdict.json").write_bytes(msgspec.json.encode(verdict))
    return case_of(run, HANG)


def finding(title: str) -> Finding:
    return Finding("warning", "fail", title, signature("warning", title), Place("b0", "kmsg", 1, 2))


def excuses(folder: Path, case: Case, lines: str, said: str = "") -> str:
    """The entry that excuses the case, or its body where it has no finding."""
    file = folder / "known-issues.toml"
    knowing.add(file, "new", lines, ["navi"], TODAY)
    loaded = known.load(file, ["navi"], TODAY)
    assert loaded.issues["new"].expires == date(2026, 8, 30)
    scope = loaded.scope(test=HANG, target="navi", driver="amdgpu", kernel="6.12.118")
    found = case.verdict.findings
    return scope.of(found[0], found) if found else scope.of_body(said, [])


def test_an_entry_excuses_what_it_was_made_of(tmp_path: Path) -> None:
    case = failed(tmp_path, finding('WARNING in "x" \\d'), finding("WARNING in y"))
    lines = knowing.entry(case, bug="https://bugs.example/2", today=TODAY)
    assert 'kernel = ">= 6.12, < 6.13"' in lines
    assert 'driver = "amdgpu"' in lines
    assert excuses(tmp_path, case, lines) == "new"


def test_an_entry_for_what_a_test_says_itself(tmp_path: Path) -> None:
    said = "AssertionError: 3 of 4 fences (rcs0) did not signal"
    case = failed(tmp_path, said=said)
    lines = knowing.entry(case, bug="https://bugs.example/2", today=TODAY, rate=0.25)
    assert "signature" not in lines
    again = said.replace("3 of 4", "11 of 12")
    assert excuses(tmp_path, case, lines, again) == "new"
    loaded = known.load(tmp_path / "known-issues.toml", ["navi"], TODAY)
    assert loaded.rates() == {"new": 0.25}
    scope = loaded.scope(test=HANG, target="navi", driver="amdgpu", kernel="6.12.118")
    assert scope.of_body("AssertionError: something else", []) == ""


def test_what_stands_in_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "known-issues.toml"
    file.write_text(FILE)
    case = failed(tmp_path, finding("WARNING in x"))
    lines = knowing.entry(case, bug="https://bugs.example/2", today=TODAY)
    knowing.add(file, "new", lines, ["navi"], TODAY)
    assert file.read_text().startswith(FILE + "\n[issues.new]\n")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_link_and_line_ends_stay(tmp_path: Path) -> None:
    real = tmp_path / "shared" / "issues.toml"
    real.parent.mkdir()
    before = FILE.replace("\n", "\r\n").encode()
    real.write_bytes(before)
    file = tmp_path / "known-issues.toml"
    file.symlink_to(real)
    case = failed(tmp_path, finding("WARNING in x"))
    lines = knowing.entry(case, bug="https://bugs.example/2", today=TODAY)
    knowing.add(file, "new", lines, ["navi"], TODAY)
    assert file.is_symlink()
    assert real.read_bytes().startswith(before + b"\r\n[issues.new]\r\n")
    assert real.read_bytes().count(b"\n") == real.read_bytes().count(b"\r\n")
    assert known.load(file, ["navi"], TODAY).issues.keys() == {"old", "new"}


def test_an_entry_that_would_not_be_valid_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "known-issues.toml"
    file.write_text(FILE)
    case = failed(tmp_path, finding("WARNING in x"))
    with pytest.raises(UsageError, match="no URL and no file"):
        knowing.add(file, "new", knowing.entry(case, bug="my desk", today=TODAY), ["navi"], TODAY)
    assert file.read_text() == FILE


def test_what_no_entry_can_be_made_of(tmp_path: Path) -> None:
    run = RunDir.open(run_of(tmp_path, "navi", [Test(HANG)]))
    passed = case_of(run, HANG)
    with pytest.raises(UsageError, match="nothing in it failed"):
        knowing.entry(passed, bug="https://x", today=TODAY)
    dead = failed(tmp_path, outcome="incomplete")
    with pytest.raises(UsageError, match="never excused"):
        knowing.entry(dead, bug="https://x", today=TODAY)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(
        '[targets.navi]\ndriver = "amdgpu"\nvm = { gpu = "ati-vga" }\n'
    )
    case = failed(tmp_path / "runs", finding("WARNING in x"))
    words = [f"--inventory={tmp_path}/targets.toml", "known", "add", str(case.directory)]
    done = CliRunner().invoke(main, [*words, "--bug=https://bugs.example/3"])
    assert done.exit_code == 0, done.output
    assert "[issues.amdgpu-recovers-gfx]" in done.output
    again = CliRunner().invoke(main, [*words, "--bug=https://bugs.example/3", "--name=amdgpu-x"])
    assert again.exit_code == 2  # it excuses the very same as the first
    assert "amdgpu-recovers-gfx" in again.output


def issue(**facts: object) -> Issue:
    base = {"title": "t", "state": "fail", "bug": "https://x", "expires": date(2027, 1, 1)}
    return Issue(**{**base, **facts})  # type: ignore[arg-type]


SIGN = "0123456789ab"


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"signature": SIGN}, {"signature": SIGN, "target": "navi"}, True),
        ({"signature": SIGN}, {"signature": "ba9876543210"}, False),
        ({"signature": SIGN}, {"signature": "ba9876543210", "also": (SIGN,)}, True),
        ({"signature": SIGN, "target": "a"}, {"signature": SIGN, "target": "b"}, False),
        ({"signature": SIGN, "driver": "a"}, {"signature": SIGN, "driver": "b"}, False),
        ({"signature": SIGN, "test": "x"}, {"signature": SIGN, "test": "x[gfx]"}, True),
        ({"signature": SIGN, "test": "x"}, {"signature": SIGN, "test": "y"}, False),
        ({"test": "x"}, {"test": "x"}, True),
        ({"test": "x", "says": "a"}, {"test": "x", "says": "b"}, False),
        (
            {"signature": SIGN, "kernel": ">= 6.1, < 6.13"},
            {"signature": SIGN, "kernel": ">= 6.12"},
            True,
        ),
        (
            {"signature": SIGN, "kernel": "< 6.12"},
            {"signature": SIGN, "kernel": ">= 6.12"},
            False,
        ),
        (
            {"signature": SIGN, "kernel": "> 6.12.1"},
            {"signature": SIGN, "kernel": "<= 6.12.3"},
            True,
        ),
    ],
)
def test_overlap(one: dict[str, str], other: dict[str, str], wanted: bool) -> None:
    assert overlap(issue(**one), issue(**other)) is wanted
    assert overlap(issue(**other), issue(**one)) is wanted


def test_entries_that_say_nothing_any_more(tmp_path: Path) -> None:
    good = Test(HANG)
    shown = Test("t.py::test_y", "xfail", "WARNING in y", known=("shows",))
    for day in range(knowing.QUIET):
        night_of(tmp_path, day, {"navi": [good, shown]})
    issues = {
        "expired": issue(signature=SIGN, expires=date(2020, 1, 1)),
        "quiet": issue(test=HANG),
        "shows": issue(test="t.py::test_y"),
        "again": issue(test=HANG, target="navi"),
        "elsewhere": issue(test=HANG, driver="i915"),
    }
    with History.open(default_url(tmp_path)) as history:
        history.add([tmp_path])
        lines = knowing.check(KnownIssues(issues, TODAY), history.results())
    told = "\n".join(lines)
    assert "expired expired on 2020-01-01" in told
    assert "quiet did not show in 20 results" in told
    assert "again overlaps quiet" in told
    assert "elsewhere concerns nothing that ran" in told
    assert "issue shows" not in told


@pytest.mark.parametrize(
    ("test", "wanted"),
    [
        ("a.py::x", ("a.py::x", 1)),
        ("a.py::x[@2]", ("a.py::x", 2)),
        ("a.py::x[gfx-@12]", ("a.py::x[gfx]", 12)),
        ("a.py::x[@3-gfx]", ("a.py::x[gfx]", 3)),
        ("a.py::x[a-@3-gfx]", ("a.py::x[a-gfx]", 3)),
        ("a.py::x[me@3]", ("a.py::x[me@3]", 1)),
    ],
)
def test_attempts(test: str, wanted: tuple[str, int]) -> None:
    assert attempt_of(test) == wanted


def test_repro_counts_what_proves_something(tmp_path: Path) -> None:
    case = failed(tmp_path, finding("WARNING in x"))
    tests = [
        Test(HANG, "fail", "WARNING in x"),
        Test(HANG.replace("]", "-@2]")),
        Test(HANG.replace("]", "-@3]"), "fail", "KASAN in y"),
        Test(HANG.replace("]", "-@4]"), "error", reason="the link broke"),
        Test(HANG.replace("]", "-@5]"), "xfail", "WARNING in x", known=("z",)),
    ]
    found = repro.count(run_of(tmp_path, "navi", tests, day=1), case)
    assert (found.same, found.any_failure) == (Rate(2, 4), Rate(3, 4))
    assert found.others == {"error": 1}
    assert "the recorded failure: 2 of 4 failed: 50.0% (95 % interval 6.8% to 93.2%" in "\n".join(
        found.lines()
    )
