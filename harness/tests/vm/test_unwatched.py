"""A kernel that does not annotate recovery is told apart from one that does; and knobs that a
test leaves turned, however it ended, are put back.  One boot for both."""

from __future__ import annotations

import pytest

from harness.coverage import of_run
from harness.tests.inner import Session, targets_file
from harness.verdict import Verdict

NAME = "sim-unwatched"
FAULT = ("-p", "harness.tests.vm.faultplugin", "--sim-fault=console_lock")
CASES = (
    "testcases/test_hang.py::test_recovers",
    "testcases/test_coverage.py",
    "testcases/test_hang.py::test_manual_reset",
    "harness/tests/vm/victims/knobs.py",
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One session on a boot with the annotation switched off."""
    directory = tmp_path_factory.mktemp(NAME)
    path = targets_file(directory / "targets.toml", NAME, "gpu_sched.tdr_annotation=0")
    session = Session(path, directory / "runs", NAME)
    (directory / "output.txt").write_text(session.run(*FAULT, *CASES).stdout)
    return session


@pytest.fixture(scope="module")
def verdicts(session: Session) -> dict[str, Verdict]:
    return session.verdicts()


def output(session: Session) -> str:
    return (session.runs.parent / "output.txt").read_text()


def test_recovery_outside_a_section_is_called_that(
    session: Session, verdicts: dict[str, Verdict]
) -> None:
    judged = verdicts["test_lockdep_watches_recovery"]
    assert judged.outcome == "fail", output(session)
    assert "not annotated here: drm_sched_job_timedout was in no signalling" in judged.reason
    assert any("not annotated here" in finding.title for finding in judged.findings)
    # A reset that a person asks for does not pass the annotated worker anyway.
    manual = verdicts["test_manual_reset"]
    assert manual.outcome == "pass"
    assert any("not annotated here" in finding.title for finding in manual.findings)


def test_without_the_annotation_a_lock_in_recovery_is_invisible(
    session: Session, verdicts: dict[str, Verdict]
) -> None:
    for state in ("on", "off"):
        judged = verdicts[f"test_recovers[gfx-console_lock-{state}]"]
        assert judged.outcome == "pass", output(session)
        assert any("not annotated here" in finding.title for finding in judged.findings)


def test_header_and_report_say_so(session: Session) -> None:
    (run,) = session.run_dirs()
    (seen,) = of_run(run).values()
    assert not seen.unprimed
    assert not seen.annotated
    assert "lockdep armed and primed" in output(session)
    assert "not annotated here" in (run.path / "report.html").read_text()


def test_knobs_are_put_back_whatever_happened(
    session: Session, verdicts: dict[str, Verdict]
) -> None:
    outcomes = {name: judged.outcome for name, judged in verdicts.items() if "knob" in judged.test}
    assert outcomes == {
        "test_a_fails_with_a_knob_turned": "fail",
        "test_b_after_the_failure": "pass",
        "test_c_agent_is_killed_with_a_knob_turned": "error",
        "test_d_after_the_agent": "pass",
    }, output(session)
