"""Whole sessions against a machine of our own making: what they run, and what they say of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from harness.evidence import journal
from harness.tests.inner import Session
from harness.tests.loopback.posing import FAKE_BOOT, VICTIMS, entry, lab, listed
from harness.tests.loopback.sshd import Sshd, keygen
from harness.verdict import recorded


def test_verdicts_on_a_kernel_without_lockdep(session: Session) -> None:
    done = session.run(VICTIMS, "-k", "not waits and not zz")
    verdicts = session.verdicts()
    assert {name: v.outcome for name, v in verdicts.items()} == {
        "test_agent_is_killed": "error",
        "test_quiet": "blind",
        "test_body_fails": "fail",
        "test_no_gpu": "error",
        "test_fails_by_word": "fail",
        "test_xfails": "xfail",
        "test_with_a_broken_fixture": "error",
    }, done.stdout
    assert "a fixture broke" in verdicts["test_with_a_broken_fixture"].reason
    assert "same boot" in verdicts["test_agent_is_killed"].reason
    assert "as planned" in verdicts["test_body_fails"].reason
    assert "no card driven by amdgpu" in done.stdout
    assert "did not opt in (destructive = true)" in done.stdout
    assert "it ran" not in done.stdout
    assert "lockdep not in this kernel" in done.stdout
    (run,) = session.run_dirs()
    assert run.facts()["boots"] == [FAKE_BOOT]
    assert (run.path / f"boot-{FAKE_BOOT}" / "kmsg").stat().st_size
    assert journal.unfinished(run.journal.path) == []
    refused = [e["test"] for e in journal.read(run.journal.path) if e["what"] == "test-refused"]
    assert refused == [f"{VICTIMS}::test_hangs"]


KNOWN = f"""
[issues.planned]
title = "fails as planned"
state = "fail"
bug = "https://bugs.example/1"
expires = 2999-12-31
test = "{VICTIMS}::test_body_fails"

[issues.forgotten]
title = "fails by word"
state = "fail"
bug = "https://bugs.example/2"
expires = 2020-01-31
test = "{VICTIMS}::test_fails_by_word"
"""


def test_known_failure_is_expected_and_an_expired_one_is_not(session: Session) -> None:
    (session.targets.parent / "known-issues.toml").write_text(KNOWN)
    done = session.run(VICTIMS, "-k", "body_fails or by_word")
    outcomes = {name: v.outcome for name, v in session.verdicts().items()}
    assert outcomes == {"test_body_fails": "xfail", "test_fails_by_word": "fail"}
    assert "1 failed" in done.stdout
    assert "1 xfailed" in done.stdout
    assert "known issue planned: fails as planned" in done.stdout
    assert "known    planned in 1 test" in done.stdout
    assert "known issue forgotten expired on 2020-01-31" in done.stdout
    (run,) = session.run_dirs()
    again = lab(session, "replay", str(run.path))
    assert "xfail      harness/tests" in again.stdout


def test_known_issues_that_cannot_be_read_are_told_before_anything_runs(session: Session) -> None:
    (session.targets.parent / "known-issues.toml").write_text(KNOWN + "stat = 3\n")
    done = session.run(VICTIMS)
    assert done.returncode == 4
    assert "unknown key 'stat' (did you mean 'state'?)" in done.stdout
    assert not session.runs.exists()


def test_two_targets_in_one_session_each_have_a_run(session: Session) -> None:
    first = session.targets.read_text()
    session.targets.write_text(first + first.replace("[targets.box]", "[targets.other]"))
    done = session.run("--target=other", VICTIMS, "-k", "quiet", "--allow-blind")
    assert done.returncode == 0, done.stdout
    runs = {run.facts()["target"]["name"]: run for run in session.run_dirs()}
    assert set(runs) == {"box", "other"}
    for name, run in runs.items():
        assert set(recorded(run)) == {f"{VICTIMS}::test_quiet[{name}]"}
        assert f"{name}: 1 blind" in done.stdout


def test_blind_is_no_pass_unless_allowed(session: Session) -> None:
    done = session.run(VICTIMS, "-k", "quiet")
    # With --allow-blind: test_two_targets_in_one_session_each_have_a_run.
    assert done.returncode == 1, done.stdout
    assert "1 blind" in done.stdout


def test_this_very_machine_is_refused(tmp_path: Path, box: Sshd) -> None:
    bare = Sshd(tmp_path / "sshd").start()
    try:
        inventory = listed(tmp_path / "targets.toml", bare)
        done = Session(inventory, tmp_path / "runs", "box").run(VICTIMS, "-k", "quiet")
    finally:
        bare.stop()
    assert done.returncode == 1
    assert "this is the very machine the harness runs on" in done.stdout


def test_unknown_target_is_told_before_anything_runs(session: Session) -> None:
    session.target = "bx"
    done = session.run(VICTIMS)
    assert done.returncode == 4
    assert "no target named 'bx' (did you mean 'box'?)" in done.stdout
    assert not session.runs.exists()


def test_another_kernel_than_asked_for_is_not_tested(session: Session) -> None:
    done = session.run(VICTIMS, "-k", "quiet", "--kernel=2.4.*")
    assert done.returncode == 1, done.stdout
    assert f"runs {os.uname().release}, not 2.4.*" in done.stdout
    assert not session.verdicts()


def test_targets_that_cannot_be_reached(tmp_path: Path, box: Sshd, session: Session) -> None:
    other = keygen(tmp_path / "other")
    wrong_host_key = other.with_suffix(".pub").read_text().strip()
    changes: dict[str, dict[str, Any]] = {
        "off": {"port": 1},
        "locked": {"key": str(other)},
        "another": {"host_key": wrong_host_key},
        "nowhere": {"address": "no-such-host.invalid"},
    }
    # Nothing here is ever reached, so there is nothing to be patient for.
    quick = {"connect_s": 5, "boot_s": 2}
    session.targets.write_text(
        "".join(entry(box, name, limits=quick, **change) for name, change in changes.items())
    )
    session.target = "off"
    others = [f"--target={name}" for name in changes if name != "off"]
    done = session.run(*others, VICTIMS, "-k", "quiet")
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    _, *parts = re.split(r"^(\w+): not reached: ", done.stdout, flags=re.MULTILINE)
    told = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(told) == set(changes), done.stdout
    assert "refused" in told["off"]
    assert "key" in told["locked"]
    assert "ssh-copy-id" in told["locked"]
    assert "host key" in told["another"]
    assert "targets.toml" in told["another"]
    assert "no-such-host.invalid" in told["nowhere"]
    for name in changes:
        assert f"ERROR at setup of test_quiet[{name}]" in done.stdout
        assert f"\nlab error: {name} (" in done.stdout
    journals = {run.facts()["target"]["name"]: run.journal.path for run in session.run_dirs()}
    assert set(journals) == set(changes)
    assert all("connect-failed" in path.read_text() for path in journals.values())


def test_count_and_until_fail_and_the_rate_of_a_failure(session: Session) -> None:
    done = session.run(VICTIMS, "-k", "quiet or by_word", "--until-fail", "--count=3")
    assert "stopping after 1 failures" in done.stdout
    ran = recorded(session.run_dirs()[-1])
    quiet = [f"{VICTIMS}::test_quiet{mark}" for mark in ("", "[@2]", "[@3]")]
    assert list(ran) == [*quiet, f"{VICTIMS}::test_fails_by_word"]
    failed = session.run_dirs()[-1].test(f"{VICTIMS}::test_fails_by_word")
    told = lab(session, "repro", str(failed), "--count=2", f"--runs={session.runs}")
    assert told.returncode == 1
    assert "the recorded failure: 2 of 2 failed: 100.0%" in told.stdout, told.stdout + told.stderr
