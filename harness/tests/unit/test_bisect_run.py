"""The oracle, and a bisect on disk: resumed after a kill, each answer counted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import msgspec
import pytest

from harness import inventory, ways
from harness.bisect import report
from harness.bisect.bisection import Bisection, Setting
from harness.bisect.kernels import Kernel
from harness.bisect.oracle import Wanted, hear
from harness.bisect.runner import Runner
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.evidence import journal
from harness.evidence.files import write_json
from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import RunDir
from harness.inventory import Inventory
from harness.known import of_list
from harness.lab import commands_bisect, redact
from harness.lab.ingest import ENDED
from harness.tests import bisecting
from harness.tests.inner import ROOT
from harness.verdict import Outcome, Verdict

__all__: list[str] = []

TEST = bisecting.TEST
SPLAT = bisecting.SPLAT
WANTED = bisecting.WANTED


def run_of(
    path: Path,
    outcome: Outcome,
    *findings: Finding,
    reason: str = "",
    test: str = TEST,
    how: str = "done",
    known: tuple[str, ...] = (),
    lockdep: Literal["armed", "blind", "went off"] = "armed",
) -> Path:
    """A run directory with one verdict; `how` its session ended, "" where it was killed."""
    run = RunDir.create(path, "box")
    run.update(kernel={"uname": {"release": "6.12"}, "builds": {"amdgpu": "aa"}})
    verdict = Verdict(test, outcome, reason, lockdep, findings, known=known)
    write_json(run.test(test) / "verdict.json", verdict)
    run.journal.add("test-start", test=test)
    if how:
        run.journal.add("run-end", how=how)
    run.journal.close()
    return run.path


def targets(directory: Path) -> Inventory:
    """A target list with one box."""
    path = directory / "targets.toml"
    path.write_text('[targets.box]\ndriver = "i915"\naddress = "box1.lab"\nhost_key = "SHA256:x"\n')
    return inventory.load(path)


@pytest.mark.parametrize(
    ("outcome", "findings", "reason", "kind"),
    [
        ("fail", (SPLAT,), "", "bad"),
        ("xfail", (SPLAT,), "known", "bad"),
        ("incomplete", (SPLAT,), "it died", "bad"),
        ("error", (SPLAT,), "the link broke", "none"),
        ("pass", (), "", "good"),
        ("fail", (Finding("oops", "fail", "oops in x", "000000000000"),), "", "other"),
        ("fail", (), "AssertionError: no flip", "other"),
        ("incomplete", (), "the target died", "other"),
        ("blind", (), "", "none"),
        ("skip", (), "no such engine", "none"),
    ],
)
def test_only_the_very_finding_is_bad(
    outcome: Outcome, findings: tuple[Finding, ...], reason: str, kind: str, tmp_path: Path
) -> None:
    heard = hear(run_of(tmp_path, outcome, *findings, reason=reason), TEST, WANTED, {})
    assert heard.kind == kind


def test_the_same_diagnosis_is_the_same_finding(tmp_path: Path) -> None:
    other = Finding("lockdep", "fail", "in another function", "111111111111", explanation="why")
    path = run_of(tmp_path, "fail", other)
    assert hear(path, TEST, Wanted("2" * 12, diagnosis="why"), {}).kind == "bad"
    assert hear(path, TEST, Wanted("2" * 12, diagnosis=""), {}).kind == "other"


def test_an_assertion_is_known_again_by_its_words(tmp_path: Path) -> None:
    first = run_of(tmp_path / "1", "fail", reason="AssertionError: 3 of 7 flips at 0x1f00")
    heard = hear(first, TEST, None, {})
    assert heard.kind == "bad"
    again = run_of(tmp_path / "2", "fail", reason="AssertionError: 5 of 7 flips at 0x2a00")
    assert hear(again, TEST, heard.wanted, {}).kind == "bad"
    another = run_of(tmp_path / "3", "fail", reason="AssertionError: no vblank")
    assert hear(another, TEST, heard.wanted, {}).kind == "other"


def test_another_kernels_run_proves_nothing(tmp_path: Path) -> None:
    path = run_of(tmp_path, "fail", SPLAT)
    assert hear(path, TEST, WANTED, {"amdgpu": "aa"}).kind == "bad"
    heard = hear(path, TEST, WANTED, {"amdgpu": "bb"})
    assert (heard.kind, "build id aa, not bb" in heard.reason) == ("none", True)


def test_a_run_without_the_test_proves_nothing(tmp_path: Path) -> None:
    path = run_of(tmp_path, "fail", SPLAT, test="testcases/other.py::test_b")
    assert hear(path, TEST, WANTED, {}).kind == "none"
    assert hear(tmp_path / "nothing", TEST, WANTED, {}).kind == "none"


@pytest.mark.parametrize(
    ("known", "lockdep", "kind"),
    [
        ((), "armed", "good"),
        ((), "blind", "none"),
        ((), "went off", "none"),
        (("issue",), "armed", "other"),
        (("issue",), "went off", "other"),
    ],
)
def test_what_was_expected_to_fail_is_good_only_where_nothing_was_excused_or_masked(
    known: tuple[str, ...],
    lockdep: Literal["armed", "blind", "went off"],
    kind: str,
    tmp_path: Path,
) -> None:
    path = run_of(tmp_path, "xfail", reason="known", known=known, lockdep=lockdep)
    assert hear(path, TEST, WANTED, {}).kind == kind


def test_a_bisects_sessions_excuse_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Ended:
        def __init__(self, argv: list[str], **_: object) -> None:
            started.append(argv)

        def wait(self, _: float) -> bool:
            return True

        def end(self) -> None: ...

        forget = end

    monkeypatch.setattr("harness.bisect.runner.Kept", Ended)
    listed = targets(tmp_path)
    runner = Runner(
        listed.path, listed.get("box"), TEST, tmp_path / "home",
        limit_s=1.0, install=("true",), extra=("--deep",),
    )  # fmt: skip
    runner.run(Kernel(directory="none"), tmp_path / "runs")
    assert not [word for word in started[0] if word.startswith("--boot")], "it is installed"
    box = msgspec.structs.replace(listed.get("box"), boot=ways.GrubBoot())
    booting = Runner(listed.path, box, TEST, tmp_path / "home", limit_s=1.0)
    booting.run(Kernel(directory="/there"), tmp_path / "booting")
    assert "--boot=/there" in started[1]
    with pytest.raises(LabError, match="nothing puts a kernel on it"):
        Runner(listed.path, listed.get("box"), TEST, tmp_path, limit_s=1.0).run(
            Kernel(directory="/there"), tmp_path / "nothing"
        )
    (given,) = [word.partition("=")[2] for word in started[0] if word.startswith("--known=")]
    issue = '[issues.one]\ntitle="t"\nstate="fail"\nbug="https://x"\nexpires=2999-01-01\ntest="*"\n'
    (tmp_path / "known-issues.toml").write_text(issue)
    assert of_list(listed).issues
    assert not of_list(listed, Path(given)).issues


def test_what_is_known_is_not_taken_for_what_is_searched(tmp_path: Path) -> None:
    new = Finding("oops", "fail", "oops in x", "000000000000")
    known = ("issue",)
    only = run_of(tmp_path / "1", "xfail", SPLAT, reason="known issue", known=known)
    assert hear(only, TEST, None, {}).kind == "other"
    ignored = run_of(tmp_path / "2", "pass", SPLAT)
    assert hear(ignored, TEST, None, {}).kind == "good"
    both = run_of(tmp_path / "3", "fail", SPLAT, new, reason=new.title, known=known)
    died = run_of(
        tmp_path / "4", "incomplete", SPLAT, new, known=known,
        reason=f"the kernel panicked; last finding: {new.title}",
    )  # fmt: skip
    for path in (both, died):
        wanted = hear(path, TEST, None, {}).wanted
        assert wanted is not None
        assert wanted.signature == new.signature
    said = run_of(tmp_path / "5", "fail", SPLAT, reason="AssertionError: no flip", known=known)
    heard = hear(said, TEST, None, {})
    assert (heard.kind, heard.reason) == ("bad", "AssertionError: no flip")


def test_a_death_is_searched_for_where_it_is_asked_for(tmp_path: Path) -> None:
    panic = "the kernel panicked: Fatal exception"
    wanted = Wanted(signature("died", panic))  # as the history names it
    path = run_of(tmp_path / "1", "incomplete", reason=panic)
    assert hear(path, TEST, wanted, {}).kind == "bad"
    unasked = hear(path, TEST, None, {})
    assert (unasked.kind, wanted.signature in unasked.reason) == ("other", True)
    another = run_of(tmp_path / "2", "incomplete", reason="QEMU ended: killed by signal 9")
    assert hear(another, TEST, wanted, {}).kind == "other"
    ours = run_of(tmp_path / "3", "incomplete", reason=ENDED)
    assert hear(ours, TEST, Wanted(signature("died", ENDED)), {}).kind == "none"


@pytest.mark.parametrize("how", ["", "interrupted"])
def test_a_run_that_was_cut_short_is_never_good(how: str, tmp_path: Path) -> None:
    passed = run_of(tmp_path / "1", "pass", how=how)
    heard = hear(passed, TEST, WANTED, {})
    assert (heard.kind, heard.reason) == ("none", "the run was cut short")
    failed = run_of(tmp_path / "2", "fail", SPLAT, reason=SPLAT.title, how=how)
    assert hear(failed, TEST, WANTED, {}).kind == "bad", "one showing is enough"


def test_a_kernel_that_does_not_come_up_is_no_trouble_of_the_labs(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "box")
    run.update(kernel={"builds": {"vmlinux": "aa"}})  # what the machine came back with
    run.journal.add("tried", came=False)
    run.journal.close()
    heard = hear(run.path, TEST, WANTED, {"vmlinux": "bb"})
    assert (heard.kind, heard.reason) == ("other", "its kernel did not come up")
    # It came up at first, and a test has its verdict.
    tested = run_of(tmp_path / "2", "pass")
    (tested / "journal.jsonl").open("a").write('{"what": "tried", "came": false}\n')
    assert hear(tested, TEST, WANTED, {}).kind == "good"


# -- the bisect ---------------------------------------------------------------------


def journal_of(folder: Path) -> list[dict[str, object]]:
    return [e for e in journal.read(folder / "journal.jsonl") if e["what"] == "answer"]


@pytest.mark.parametrize("culprit", [0, 9, 19])
def test_the_culprit_is_found_and_told(culprit: int, tmp_path: Path) -> None:
    bisection = bisecting.make(tmp_path, commits=20, culprit=culprit)
    answer = bisection.go()
    assert (answer.sure, answer.members) == (True, (culprit,))
    text, picture, mail = report.write(bisection, answer)
    assert f"{bisecting.commit_id(culprit)} is the first bad commit" in text.read_text()
    assert len(journal_of(tmp_path)) == text.read_text().count("runs/")
    assert "<b>" not in picture.read_text(), "titles are data"
    assert f"#regzbot introduced: {bisecting.commit_id(culprit)}" in mail.read_text()
    assert "the splat" in mail.read_text()


def test_a_mail_tells_no_secret(tmp_path: Path) -> None:
    (tmp_path / "bisect").mkdir()
    bisection = bisecting.make(tmp_path / "bisect", commits=8, culprit=2)
    answer = bisection.go()
    bad = next(one for one in bisection.attempts if one.kind == "bad")
    (quoted,) = (bisection.folder / bad.run).glob("*/tests/*/verdict.json")
    key = "-----BEGIN RSA PRIVATE KEY-----\nAAAAB3NzaC1yc2EAAAADAQAB\n-----END RSA PRIVATE KEY-----"
    told = f"on box1.lab and node7\n{key}\nfrom 10.1.2.3, carol@desk"
    splat = msgspec.structs.replace(SPLAT, text=told)
    write_json(quoted, Verdict(TEST, "fail", SPLAT.title, "armed", (splat,)))
    RunDir.open(quoted.parents[2]).update(kernel={"uname": {"nodename": "node7"}})
    assert bisection.wanted is not None
    bisection.wanted = msgspec.structs.replace(bisection.wanted, title="lock of 10.1.2.3")
    secrets = list(redact.of_target(targets(tmp_path).get("box")))
    mail = report.write(bisection, answer, secrets)[2].read_text()
    for secret in ("box1.lab", "node7", "AAAAB3", "10.1.2.3", "carol"):
        assert secret not in mail
    assert "\nTo: A <a@example.invalid>\nCc: regressions@lists.linux.dev\n" in mail
    assert f"#regzbot introduced: {bisecting.commit_id(2)}\n" in mail
    assert "Subject: [REGRESSION] lock of <address-1>\n" in mail
    assert "from <address-1>, <user-1>\n" in mail


def test_without_a_finding_the_bad_end_says_what_is_searched(tmp_path: Path) -> None:
    bisection = bisecting.make(tmp_path, commits=8, culprit=2, wanted=None)
    answer = bisection.go()
    assert bisection.attempts[0].commit == 7
    assert bisection.wanted is not None
    assert (bisection.wanted.signature, answer.members) == (SPLAT.signature, (2,))


def test_a_lab_that_gives_no_verdict_stops_it_and_it_goes_on_later(tmp_path: Path) -> None:
    broken = bisecting.make(tmp_path, commits=20, culprit=7, broken_lab=True)
    with pytest.raises(LabError, match="in a row gave no verdict"):
        broken.go()
    broken.close()
    mended = bisecting.make(tmp_path, commits=20, culprit=7)
    assert mended.go().members == (7,)


def test_a_limit_of_runs_is_kept_and_said(tmp_path: Path) -> None:
    bisection = bisecting.make(tmp_path, commits=20, culprit=7, most_runs=2)
    answer = bisection.go()
    assert (answer.sure, len(bisection.attempts)) == (False, 2)
    told = report.text(bisection, answer)
    assert "not found: 2 runs are as many as were allowed" in told


def until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(120)
    while not condition():
        assert deadline.pause(0.02)


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_killed_bisect_goes_on_where_it_was(stage: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "harness.tests.bisecting", str(tmp_path), "32", "21", f"3{stage}"]
    victim = subprocess.Popen(argv, cwd=ROOT)
    until((tmp_path / "stopped").exists)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    kept = journal_of(tmp_path)
    assert len(kept) == 3, "the fourth run's answer was not written yet"
    with (tmp_path / "journal.jsonl").open("ab") as torn:
        torn.write(b'{"what": "answer", "commit"')

    resumed = bisecting.make(tmp_path, commits=32, culprit=21)
    # The run that had ended is looked at, the one that had not is run again.
    assert len(resumed.attempts) == (4 if stage == "after" else 3)
    assert resumed.go().members == (21,)
    assert journal_of(tmp_path)[:3] == kept


def test_a_folder_that_is_no_bisects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no bisect\.json"):
        Setting.load(tmp_path)


def test_what_was_asked_for_is_kept(tmp_path: Path) -> None:
    bisection: Bisection = bisecting.make(tmp_path, commits=4, culprit=1)
    assert Setting.load(tmp_path) == bisection.setting


def test_a_search_that_breaks_off_says_how_to_get_the_own_kernel_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise LabError("the disk is full", where="here", cure="free some")

    def stand_in(*_: object, **__: object) -> SimpleNamespace:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        search = SimpleNamespace(answer=nothing)
        return SimpleNamespace(
            go=broken, search=search, close=nothing, learn=nothing, known=nothing, boots=True
        )

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("Bisection", "Kernels", "Runner", "Workshop"):
        monkeypatch.setattr(commands_bisect, name, stand_in)
    monkeypatch.setattr(report, "write", stand_in)
    setting = msgspec.structs.replace(
        bisecting.make(tmp_path, commits=4, culprit=1).setting,
        inventory=str(targets(tmp_path).path),
    )
    with pytest.raises(LabError, match="the disk is full"):
        commands_bisect._run(setting, tmp_path)
    assert "lab boot box --own" in capsys.readouterr().err
