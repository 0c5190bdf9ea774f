"""The testcases that are for any driver, on the real i915: all pass, and lockdep sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.gpu.i915_error import parse
from harness.tests.inner import Session, targets_file

# What i915 itself is at odds with, and its own selftests, have tests of their own; what needs no
# GPU is the same on the other target, and reclaim takes long in one thread.
LONG = ("generic", "pressure")
ELSEWHERE = ("deadlock", "selftests", *LONG)
LEFT_OUT = tuple(f"--ignore=testcases/test_{name}.py" for name in ELSEWHERE)

# What gen3, this kernel or the model has not; the console has a boot of its own.
SKIPPED = {
    "test_all_engines_hung_at_once": "one engine",
    "test_suspend_to_idle_beside_a_hang": "cannot suspend",
    "test_hangs_leave_no_memory_unreferenced": "no kmemleak",
    "test_recovers_beside_a_busy_console": "no framebuffer device",
}


def test_every_testcase_passes_on_gen3(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-g33", chip="g33")
    session = Session(targets, tmp_path / "runs", "sim-g33")
    done = session.run("testcases", *LEFT_OUT)
    verdicts = session.verdicts()
    assert done.returncode == 0, done.stdout
    skipped = {name: v.reason for name, v in verdicts.items() if v.outcome == "skip"}
    for name, why in SKIPPED.items():
        assert why in skipped.pop(name, why), name
    assert skipped == {}
    assert {v.outcome for v in verdicts.values()} == {"pass", "skip"}
    assert {v.lockdep for v in verdicts.values()} == {"armed"}
    assert {v.fences for v in verdicts.values()} == {"accounted"}
    assert {"test_recovers[rcs0]", "test_manual_reset", "test_hang_after_hang"} <= set(verdicts)
    (run,) = session.run_dirs()
    (dump,) = run.path.glob("tests/*dump*/error-state")
    state = parse(dump.read_bytes())
    assert (state.generation, state.process) == (3, "lab-i915")
    # Storms and hangs both: nobody's request is missing, though none could name its fence.
    (storm,) = run.path.glob("tests/*storm*/storm.json")
    told = json.loads(storm.read_text())
    requests = sum(told["counts"]["request"].values())
    assert requests == sum(told["submitted"]) + told["hangs"]


@pytest.mark.deep
def test_what_takes_long_passes_on_gen3(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-g33-long", chip="g33")
    session = Session(targets, tmp_path / "runs", "sim-g33-long")
    done = session.run(*(f"testcases/test_{name}.py" for name in LONG))
    assert done.returncode == 0, done.stdout
    assert {v.outcome for v in session.verdicts().values()} == {"pass"}
