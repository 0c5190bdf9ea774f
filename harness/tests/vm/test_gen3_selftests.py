"""i915's own selftests, and those of what it builds on, on the modelled G33: each outcome as
tools/gen3/SELFTESTS.md has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.tests.inner import KNOWN_ISSUES, Session, known_issues, targets_file
from testcases.test_selftests import MOCK

CASES = "testcases/test_selftests.py"
# Failures of i915's own, and DRM's, in known-issues.toml.
KNOWN = {"test_mock[evict]", "test_mock[memory_region]", "test_drm_kunit"}
# Kernel 6.12 has no group that is not listed.
ABSENT = {"test_mock[others]"}
# A flake of i915's: looks before the engine is asleep.
FLAKE = ("gt_engines", "live_engine_pm")
# Those groups of SELFTESTS.md whose subtests run something on gen3.
GROUPS = {
    *("sanitycheck", "uncore", "workarounds", "gt_engines", "gt_timelines", "gt_contexts"),
    *("gt_pm", "gt_heartbeat", "requests", "active", "objects", "mman", "dmabuf", "vma"),
    *("coherency", "gtt", "gem", "reset", "hangcheck", "ring_submission"),
}


@pytest.mark.deep
def test_selftests_end_as_is_known(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-g33-selftests", chip="g33")
    session = Session(targets, tmp_path / "runs", "sim-g33-selftests")
    (tmp_path / KNOWN_ISSUES).write_text(known_issues())
    done = session.run(CASES)
    told = {name: (verdict.outcome, verdict.reason) for name, verdict in session.verdicts().items()}
    outcomes = {name: outcome for name, (outcome, _) in told.items()}
    wanted = dict.fromkeys((f"test_mock[{group}]" for group in MOCK if group), "pass")
    wanted |= dict.fromkeys(("test_dma_buf", "test_ww_mutex"), "pass")
    wanted |= dict.fromkeys(KNOWN, "xfail") | dict.fromkeys(ABSENT, "skip")
    live = outcomes.pop("test_live")
    assert outcomes == wanted, (told, done.stdout)
    assert live in ("pass", "xfail"), (told["test_live"], done.stdout)

    (run,) = session.run_dirs()
    (path,) = run.path.glob("tests/*test_live*/selftests.json")
    groups = json.loads(path.read_text())["groups"]
    ran = {(group["group"], one["name"]): one for group in groups for one in group["subtests"]}
    failed = [name for name, one in ran.items() if one["error"]]
    assert failed == ([FLAKE] if live == "xfail" else [])
    assert {group for group, _ in ran} >= GROUPS
    assert len(ran) > 100
