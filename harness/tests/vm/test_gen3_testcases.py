"""The testcases that are for any driver, on the real i915: all pass, and lockdep sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.gpu.i915_error import parse
from harness.tests.inner import Session, targets_file
from harness.tests.vm.conftest import GEN3_LONG

# What i915 itself is at odds with has a test of its own: test_gen3_deadlock.py.
FAILING = {f"test_recovery_passes_a_waiting_{how}" for how in ("modeset", "flip")}

# gen3 has one engine.  The others have a boot of their own, below: kmemleak follows every
# allocation, and a console is drawn through the aperture.
SKIPPED = {
    "test_all_engines_hung_at_once": "one engine",
    "test_hangs_leave_no_memory_unreferenced": "kmemleak is off",
    "test_recovers_beside_a_busy_console": "no framebuffer device",
}
OWN_BOOT = (
    "testcases/test_memory.py::test_hangs_leave_no_memory_unreferenced",
    "testcases/test_console.py",
)
# A small picture of 16 bits: each store is a round trip to the model.
OWN_WORDS = "kmemleak=on drm_kms_helper.fbdev_emulation=1 video=VGA-1:640x480-16"


def test_every_testcase_passes_on_gen3(gen3_night: Session) -> None:
    (run,) = gen3_night.run_dirs()
    verdicts = {name: v for name, v in gen3_night.verdicts().items() if name not in FAILING}
    told = {name: (v.outcome, v.reason) for name, v in verdicts.items() if v.outcome != "pass"}
    assert {name: outcome for name, (outcome, _) in told.items()} == dict.fromkeys(SKIPPED, "skip")
    for name, why in SKIPPED.items():
        assert why in told[name][1], name
    assert {v.lockdep for v in verdicts.values()} == {"armed"}
    assert {v.fences for v in verdicts.values()} == {"accounted"}
    assert {"test_recovers[rcs0]", "test_manual_reset", "test_hang_after_hang"} <= set(verdicts)
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
    done = session.run(*(f"testcases/test_{name}.py" for name in GEN3_LONG))
    assert done.returncode == 0, done.stdout
    assert {v.outcome for v in session.verdicts().values()} == {"pass"}


@pytest.mark.deep
def test_what_needs_a_boot_of_its_own_passes_on_gen3(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-g33-own", OWN_WORDS, chip="g33")
    session = Session(targets, tmp_path / "runs", "sim-g33-own")
    done = session.run(*OWN_BOOT)
    outcomes = {name: verdict.outcome for name, verdict in session.verdicts().items()}
    assert outcomes == {
        "test_hangs_leave_no_memory_unreferenced": "pass",
        "test_recovers_beside_a_busy_console": "pass",
    }, done.stdout
