"""A test's fence account from its run's files: whole, missing, broken, drawn, printed."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.account import PERFETTO, PICTURE, open_account, rules_of
from harness.cli import main
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir, Window
from harness.fence.ledger import EVENTS
from harness.fence.trace import Trace
from harness.lab import report
from harness.tests.traces import sample
from harness.verdict import record

TEST = "testcases/test_hang.py::test_recovers[gfx]"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose boot `b` has the recording of three hangs."""
    made = RunDir.create(tmp_path / "runs", "box")
    shutil.copytree(sample("hangs", tmp_path), made.boot("b") / "trace")
    made.journal.add("test-start", test=TEST, boot="b")
    made.update(target={"driver": "amdgpu", "limits": {"tdr_s": 20.0}})
    return made


def window(run: RunDir, **facts: Any) -> Window:
    """One over all that was recorded."""
    recording = Trace.open(run.boot("b") / "trace").read(EVENTS)
    times = [table.time for table in recording.tables.values() if len(table)]
    given: dict[str, Any] = {
        "test": TEST, "boot_id": "b", "first_seq": 0, "offset": 0, "body": "passed",
        "health_before": {"debug_locks": 1}, "health_after": {"debug_locks": 1},
        "trace_first": int(min(time[0] for time in times)),
        "trace_last": int(max(time[-1] for time in times)),
    }  # fmt: skip
    made = Window(**{**given, **facts})
    write_json(run.test(TEST) / "window.json", made)
    return made


def test_a_whole_trace_is_accounted(run: RunDir) -> None:
    account = open_account(run, window(run))
    assert (account.state, account.why) == ("accounted", "")
    assert account.ledger is not None
    assert len(account.ledger.recoveries) == 3
    assert [f for f in account.findings if f.severity == "fail"] == []


def test_an_old_run_has_none_and_claims_nothing(run: RunDir) -> None:
    old = window(run, trace_first=None, trace_last=None)
    account = open_account(run, old)
    assert (account.state, account.ledger, account.findings) == ("none", None, ())
    assert record(run, old).outcome == "pass"


@pytest.mark.parametrize("how", ["behind", "gone", "broken"])
def test_what_is_missing_is_unknown(run: RunDir, how: str) -> None:
    opened = window(run, trace="the trace is behind" if how == "behind" else "")
    trace = run.boot("b") / "trace"
    if how == "gone":
        shutil.rmtree(trace)
    elif how == "broken":
        (trace / "formats" / "dma_fence" / "dma_fence_init").write_text("nonsense")
    verdict = record(run, opened)
    assert (verdict.outcome, verdict.fences) == ("error", "unknown")
    assert "cannot be accounted for" in verdict.reason


def test_a_kernel_without_fence_events_has_none(run: RunDir) -> None:
    opened = window(run)
    (run.boot("b") / "trace" / "formats" / "dma_fence" / "dma_fence_init").unlink()
    account = open_account(run, opened)
    assert account.state == "none"
    assert "dma_fence_init" in account.why


def test_a_kernel_without_probes_has_one_and_says_so(run: RunDir) -> None:
    opened = window(run)
    (run.boot("b") / "trace" / "formats" / "lab" / "wait_end").unlink()
    account = open_account(run, opened)
    assert account.state == "accounted"
    (note,) = [f for f in account.findings if f.kind == "fence-account"]
    assert (note.severity, "lab:wait_end" in note.title) == ("note", True)


def test_a_target_is_held_to_its_own_limits() -> None:
    rules = rules_of({"target": {"driver": "amdgpu", "limits": {"tdr_s": 7.5}}})
    assert rules.deadline_ns == 7_500_000_000
    assert rules.hang_errors
    assert rules_of({}).hang_errors is None, "nobody knows what an unknown driver gives"


def test_pictures_lie_beside_the_verdict_and_in_the_report(run: RunDir) -> None:
    record(run, window(run))
    place = run.test(TEST)
    assert ET.parse(place / PICTURE).getroot().tag.endswith("svg")
    assert (place / PERFETTO).stat().st_size > 1000
    page = report.write(run).read_text()
    assert f"{place.name}/{PICTURE}".replace("[", "%5B").replace("]", "%5D") in page


def test_lab_fences_prints_one_test_or_all(run: RunDir, tmp_path: Path) -> None:
    window(run)
    for path in (run.path / TEST, run.path / "test_recovers[gfx]", run.test(TEST)):
        done = CliRunner().invoke(main, ["fences", str(path)])
        assert done.exit_code == 0, done.output
        assert done.output.count("recovery at") == 3
        assert "accounted" in done.output
    data = tmp_path / "fences.json"
    done = CliRunner().invoke(main, ["fences", str(run.path), "--as", "json", "-o", str(data)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(data.read_text())["recoveries"]) == 3


def test_lab_fences_names_what_there_is(run: RunDir, tmp_path: Path) -> None:
    window(run)
    done = CliRunner().invoke(main, ["fences", str(run.path / "test_other")])
    assert done.exit_code == 2
    assert "test_recovers[gfx]" in done.output
    done = CliRunner().invoke(main, ["fences", str(tmp_path)])
    assert done.exit_code == 2
    assert "not in a run directory" in done.output
