"""The fence account on a real kernel: whole after a storm, unknown where the trace is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.account import Account
from harness.evidence.files import read_json
from harness.fence.fences import State
from harness.lab.fences import accounts
from harness.tests.inner import Session, targets_file
from harness.verdict import rejudge

STORM = "testcases/test_storm.py"


def stormy(tmp_path: Path, name: str, seconds: int) -> tuple[Session, str]:
    """A session in which a storm blew for `seconds`, and what it printed."""
    targets = targets_file(tmp_path / "targets.toml", name)
    session = Session(targets, tmp_path / "runs", name)
    return session, session.run(STORM, f"--storm={seconds}").stdout


def account_of(session: Session) -> tuple[Account, dict[str, Any]]:
    """The account of the only test, made anew from disk, and what its submitters had told."""
    (run,) = session.run_dirs()
    ((_, window, account),) = accounts(run.path)
    told = run.test(window.test) / "storm.json"
    return account, read_json(told) if told.exists() else {}


def whole(session: Session, printed: str) -> dict[str, Any]:
    """Every job that was submitted has its three fences, and nothing is unknown."""
    (verdict,) = session.verdicts().values()
    assert (verdict.outcome, verdict.fences) == ("pass", "accounted"), printed
    account, told = account_of(session)
    assert account.ledger is not None
    assert account.ledger.losses == ()
    counts = account.ledger.counts()
    jobs = told["hangs"] + sum(told["submitted"])
    for role in ("scheduled", "finished", "hw"):
        assert sum(counts[role].values()) == jobs, f"{role}: {counts} for {told}"
    states = {state for row in counts.values() for state in row}
    assert not states & {State.UNKNOWN, State.PENDING, State.FREED}, counts
    assert told["counts"] == counts, "from disk it is what it was in the test"
    assert len(account.ledger.recoveries) >= told["hangs"]
    return told


def test_every_job_of_a_storm_is_accounted_for(tmp_path: Path) -> None:
    told = whole(*stormy(tmp_path, "sim-storm", 20))
    assert told["hangs"] >= 3
    assert min(told["submitted"]) > 100


@pytest.mark.deep
def test_ten_minutes_and_a_hundred_resets_are_accounted_for(tmp_path: Path) -> None:
    told = whole(*stormy(tmp_path, "sim-long-storm", 600))
    assert told["seconds"] >= 600
    assert told["hangs"] >= 100


def test_a_trace_that_overflows_is_unknown_and_never_a_pass(tmp_path: Path) -> None:
    tiny = "policy = { trace_buffer_kb = 16 }"
    targets = targets_file(tmp_path / "targets.toml", "sim-overflow", extra=tiny)
    session = Session(targets, tmp_path / "runs", "sim-overflow")
    printed = session.run("harness/tests/vm/victims/fence_flood.py").stdout
    (verdict,) = session.verdicts().values()
    assert (verdict.outcome, verdict.fences) == ("error", "unknown"), printed
    account, _ = account_of(session)
    assert account.ledger is not None
    assert account.ledger.losses
    assert not any(finding.severity == "fail" for finding in account.findings)
    (again,) = rejudge(session.run_dirs()[0])
    assert again == verdict
