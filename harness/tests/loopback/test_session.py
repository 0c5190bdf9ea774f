"""Whole sessions against a real sshd on this machine, which poses as another by its boot_id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.tests.inner import ROOT, Session
from harness.tests.loopback.sshd import Sshd, keygen, why_not
from harness.verdict import recorded

VICTIMS = "harness/tests/loopback/victims/days.py"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
FAKE_BOOT = "11111111-2222-3333-4444-555555555555"

# Another boot_id for the server and all below it, by a mount of its own.
MASK = """
import os, subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[2]], check=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


def posing(folder: Path, **settings: str) -> Sshd:
    """A server that looks like another machine; skips the test where that cannot be done."""
    if reason := why_not():
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    fake = folder / "boot_id"
    fake.write_text(FAKE_BOOT + "\n")
    prefix = [
        *("unshare", "--mount", "--propagation", "private"),
        *(sys.executable, "-c", MASK, str(fake), BOOT_ID),
    ]
    allowed = ["unshare", "--mount", "mount", "--bind", str(fake), BOOT_ID]
    if shutil.which("unshare") is None or subprocess.run(allowed, capture_output=True).returncode:
        pytest.skip("changing the mounts of a process needs root")
    if not os.access("/dev/kmsg", os.R_OK | os.W_OK):
        pytest.skip("/dev/kmsg cannot be read here")
    return Sshd(folder / "sshd", prefix=prefix, **settings).start()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A machine of our own making."""
    server = posing(tmp_path_factory.mktemp("box"))
    yield server
    server.stop()


def listed(path: Path, box: Sshd, **keys: str) -> Path:
    """A target list whose only entry is `box`."""
    settings = {
        "driver": "amdgpu",
        "address": "127.0.0.1",
        "user": "root",
        "key": str(box.user_key),
        "host_key": box.public(),
        **keys,
    }
    lines = "\n".join(f'{key} = "{value}"' for key, value in settings.items())
    limits = "limits = { connect_s = 5, boot_s = 8 }"
    path.write_text(f"[targets.box]\n{lines}\nport = {box.port}\n{limits}\n")
    return path


@pytest.fixture
def session(box: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Session(listed(tmp_path / "targets.toml", box), tmp_path / "runs", "box")


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


def test_lost_reservation_stops_the_run_on_that_target(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits or zz")
    deadline = Deadline(60)
    while not flag.exists() and process.poll() is None and deadline.pause(0.05):
        pass
    assert "box taken from" in lab(session, "unlock", "box").stdout
    flag.unlink()
    assert process.wait(60) == 1
    told = (session.runs / "output.txt").read_text()
    waited = session.verdicts()["test_waits_to_be_killed"]
    # The other may have been at work while it ran: whatever it saw is no evidence.
    assert waited.outcome == "error"
    assert waited.reason == "the reservation is lost: someone broke the lock"
    assert "test_zz_after_the_lock_was_lost" in told
    assert "lab error" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("flag", "status"), [([], 1), (["--allow-blind"], 0)])
def test_blind_is_no_pass_unless_allowed(session: Session, flag: list[str], status: int) -> None:
    done = session.run(VICTIMS, "-k", "quiet", *flag)
    assert done.returncode == status, done.stdout
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


@pytest.mark.parametrize(
    ("change", "said", "cure"),
    [
        ({"address": "127.0.0.1", "port_off": "yes"}, "refused", ""),
        ({"key": "KEY"}, "key", "ssh-copy-id"),
        ({"host_key": "HOST"}, "host key", "targets.toml"),
        ({"address": "no-such-host.invalid"}, "no-such-host.invalid", ""),
    ],
)
def test_target_that_cannot_be_reached(
    tmp_path: Path, box: Sshd, change: dict[str, str], said: str, cure: str
) -> None:
    other = keygen(tmp_path / "other")
    change = dict(change)
    if change.get("key"):
        change["key"] = str(other)
    if change.get("host_key"):
        change["host_key"] = other.with_suffix(".pub").read_text().strip()
    off = change.pop("port_off", "")
    inventory = listed(tmp_path / "targets.toml", box, **change)
    # Nothing here is ever reached, so there is nothing to be patient for.
    text = inventory.read_text().replace("boot_s = 8", "boot_s = 2")
    inventory.write_text(text.replace(str(box.port), "1") if off else text)
    session = Session(inventory, tmp_path / "runs", "box")
    done = session.run(VICTIMS, "-k", "quiet")
    assert done.returncode == 1, done.stdout
    assert "lab error" in done.stdout
    assert said in done.stdout
    assert cure in done.stdout
    assert "Traceback" not in done.stdout
    assert "connect-failed" in session.run_dirs()[0].journal.path.read_text()


def test_killed_session_names_the_test_and_resumes(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "quiet or waits")
    deadline = Deadline(60)
    while not flag.exists() and process.poll() is None and deadline.pause(0.05):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (run,) = session.run_dirs()
    assert journal.unfinished(run.journal.path) == [f"{VICTIMS}::test_waits_to_be_killed"]
    replayed = subprocess.run(
        [sys.executable, "-m", "harness.cli", "replay", str(run.path)],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert "incomplete" in replayed.stdout
    assert "test_waits_to_be_killed" in replayed.stdout


def test_a_killed_test_is_incomplete_once_and_never_run_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits")
    deadline = Deadline(120)
    while not flag.exists() and process.poll() is None and deadline.pause(0.05):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    flag.unlink()
    done = session.run(VICTIMS, "-k", "waits or quiet", "--allow-blind", "--resume")
    (run,) = session.run_dirs()
    outcomes = {name: v.outcome for name, v in session.verdicts().items()}
    assert outcomes == {"test_waits_to_be_killed": "incomplete", "test_quiet": "blind"}
    assert not flag.exists(), "it ran again"
    assert "not run again" in done.stdout
    begun = [e["test"] for e in journal.read(run.journal.path) if e["what"] == "test-start"]
    assert begun == [f"{VICTIMS}::test_waits_to_be_killed", f"{VICTIMS}::test_quiet"]


def test_sigterm_ends_a_session_as_ctrl_c_does(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    process = session.start(VICTIMS, "-k", "waits")
    deadline = Deadline(60)
    while not flag.exists() and process.poll() is None and deadline.pause(0.05):
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 2
    (run,) = session.run_dirs()
    assert [e["how"] for e in journal.read(run.journal.path) if e["what"] == "run-end"] == [
        "interrupted"
    ]


def test_a_disk_that_fills_up_costs_one_test(session: Session, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        session.runs = small / "runs"
        done = session.run(str(Path(VICTIMS).with_name("full_disk.py")), "--allow-blind")
        got = {name: (v.outcome, v.reason) for name, v in session.verdicts().items()}
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    assert got["test_a_disk_fills_up"][0] == "error", done.stdout
    assert "No space left on device" in got["test_a_disk_fills_up"][1]
    assert got["test_b_after_the_disk"][0] == "blind", done.stdout


def test_full_disk_here_is_an_error_of_the_lab(session: Session, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        session.runs = small / "runs"
        done = session.run(VICTIMS, "-k", "quiet")
        assert done.returncode == 1, done.stdout
        assert "No space left" in done.stdout
        assert "free space" in done.stdout
        assert "Traceback" not in done.stdout
    finally:
        subprocess.run(["umount", str(small)], check=True)


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


def lab(session: Session, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "--inventory", str(session.targets), *args],
        cwd=ROOT, text=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def test_shell_runs_a_command_there_with_the_key_checked(session: Session) -> None:
    done = lab(session, "shell", "box", "--", "cat", BOOT_ID)
    assert (done.returncode, done.stdout.strip()) == (0, FAKE_BOOT), done.stderr
    assert lab(session, "shell", "box", "--", "false").returncode == 1


def test_doctor_tells_line_by_line_what_is_missing(session: Session) -> None:
    done = lab(session, "doctor", "box")
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok SSH, python3, agent") for line in lines)
    assert "no lockdep: not in this kernel" in lines
    assert any(line.startswith("no GPU driven by amdgpu") for line in lines)
    assert any("CONFIG_PROVE_LOCKING=y" in line for line in lines)
    for number, line in enumerate(lines):
        if line.startswith("no "):
            assert lines[number + 1].startswith("   cure: "), line


def test_console_of_a_target_without_one_is_told(session: Session) -> None:
    done = lab(session, "console", "box")
    assert done.returncode == 3
    assert "has no console" in done.stderr


def test_target_without_python_is_told(tmp_path: Path, session: Session) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith("python"):
            (bare / program.name).symlink_to(program)
    box = posing(tmp_path / "bare", SetEnv=f"HOME={tmp_path} PATH={bare}")
    try:
        listed(session.targets, box)
        done = lab(session, "doctor", "box")
    finally:
        box.stop()
    assert done.returncode == 4, done.stderr
    told = done.stdout.splitlines()
    (line,) = [number for number, text in enumerate(told) if text.startswith("no ")]
    assert "python3" in told[line]
    assert "python3" in told[line + 1]
