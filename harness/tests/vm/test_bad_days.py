"""Bad days: what broke is named, the guilty test too, and the rest of the night goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.kernel.merge import Line
from harness.lab import bootlog
from harness.tests.inner import ROOT, Session, processes_mentioning, targets_file

VICTIMS = "harness/tests/vm/victims/bad_days.py"
PANIC = re.compile("Kernel panic - not syncing: sysrq triggered crash")
HANG = "testcases/test_hang.py::test_recovers"


@pytest.fixture
def session(tmp_path: Path, request: pytest.FixtureRequest) -> Session:
    name = f"sim-{zlib.crc32(request.node.name.encode()):08x}"
    return Session(targets_file(tmp_path / "targets.toml", name), tmp_path / "runs", name)


def test_each_bad_day_has_its_verdict(session: Session) -> None:
    done = session.run(VICTIMS)
    got = {name: (v.outcome, v.reason) for name, v in session.verdicts().items()}
    outcomes = {name: outcome for name, (outcome, _) in got.items()}
    assert outcomes == {
        "test_a_agent_is_killed": "error",
        "test_b_after_the_agent": "pass",
        "test_c_machine_panics": "incomplete",
        "test_d_after_the_panic": "pass",
        "test_e_forgotten_hang": "pass",
        "test_f_unasked_reset": "fail",
        "test_h_body_fails": "fail",
        "test_i_expected_to_fail": "xfail",
        "test_j_skips_itself": "skip",
        "test_k_finding_in_an_expected_failure": "fail",
        "test_l_teardown_misbehaves": "fail",
        "test_m_after_the_untidy_one": "pass",
    }, done.stdout
    assert done.returncode == 1
    assert "4 failed" in done.stdout, "panic, reset, assertion, and reset in an expected failure"
    assert "same boot" in got["test_a_agent_is_killed"][1]
    assert "sysrq triggered crash" in got["test_c_machine_panics"][1]
    assert "sysrq_handle_crash" in done.stdout, "the stack that only the console carried"
    assert "after the test ended" in done.stdout
    assert "hangs nothing" in got["test_f_unasked_reset"][1]
    (run,) = session.run_dirs()
    boots = [entry["boot"] for entry in journal.read(run.journal.path) if entry["what"] == "boot"]
    assert len(set(boots)) == 2, "one boot more, for the panic"
    assert journal.unfinished(run.journal.path) == []
    # Emulated, QEMU 7.2 now and then crashes at a reset, while the guest moves its BARs: then the
    # machine came back by power, and its memory was lost.
    entries = journal.read(run.journal.path)
    if [e["name"] for e in entries if e["what"] == "recovered"] == ["reset button"]:
        check_last_words(run, boots[0])


def check_last_words(run: RunDir, boot: str) -> None:
    """What the panicked boot left in memory was fetched by the next one, for the guilty test; and
    its log knows the panic from there and from the console, but not from kmsg."""
    told = [entry for entry in journal.read(run.journal.path) if entry["what"] == "pstore"]
    dumps = [entry for entry in told if entry["file"].startswith("dmesg-")]
    assert {(e["boot"], e["test"].rpartition("::")[2]) for e in dumps} == {
        (boot, "test_c_machine_panics")
    }
    merged = bootlog.of_boot(run, boot)
    (panic,) = [
        line for line in merged.lines if isinstance(line, Line) and PANIC.fullmatch(line.text)
    ]
    assert panic.sources[0] == "console"
    assert {source.partition("/")[0] for source in panic.sources} == {"console", "pstore"}


def test_a_run_holds_its_target_and_killed_leaves_a_readable_run_and_no_machine(
    session: Session,
) -> None:
    # More than will ever run.
    process = session.start("testcases/test_hang.py")
    path = session.wait_for_test(process, Deadline(300))
    second = session.run("testcases/test_health.py")
    assert second.returncode != 0
    assert f"pid {process.pid}" in second.stdout
    assert f"lab unlock {session.target}" in second.stdout

    machines = processes_mentioning(f"process=tdrlab-{session.target}")
    assert machines, "the machine runs"
    # At the beginning of a test, so that it is not over before the signal comes.
    before, begun = journal.unfinished(path), Deadline(300)
    while journal.unfinished(path) in ([], before) and begun.pause(0.05):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    (running,) = journal.unfinished(path)
    assert running.startswith("testcases/test_hang.py::")
    assert running not in before
    replayed = subprocess.run(
        [sys.executable, "-m", "harness.cli", "replay", str(path.parent)],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert "incomplete" in replayed.stdout, replayed.stderr
    assert running.rpartition("::")[2] in replayed.stdout
    assert (path.parent / "report.html").exists()
    gone = Deadline(30)
    while processes_mentioning(f"process=tdrlab-{session.target}") and gone.pause(0.2):
        pass
    assert not processes_mentioning(f"process=tdrlab-{session.target}"), "it died with the harness"


def test_interrupted_run_is_resumed(session: Session) -> None:
    tests = ["testcases/test_health.py", HANG, "-k", "gfx"]
    process = session.start(*tests)
    path = session.wait_for_test(process, Deadline(300))
    deadline = Deadline(120)
    while "test_recovers" not in "".join(journal.unfinished(path)) and deadline.pause(0.05):
        pass
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(120) == 2, (session.runs / "output.txt").read_text()
    assert [e["how"] for e in journal.read(path) if e["what"] == "run-end"] == ["interrupted"]
    assert not processes_mentioning(f"process=tdrlab-{session.target}")
    assert set(session.verdicts()) == {"test_canary[gfx]"}

    done = session.run(*tests, f"--resume={path.parent}")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 7 deselected" in done.stdout or "1 passed" in done.stdout
    assert len(session.run_dirs()) == 1
    assert {v.outcome for v in session.verdicts().values()} == {"pass"}
    assert set(session.verdicts()) == {"test_canary[gfx]", "test_recovers[gfx]"}
