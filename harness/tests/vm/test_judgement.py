"""The judgement itself, on a real kernel: healthy recovery is silent, a forbidden lock is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness.tests.inner import KNOWN_ISSUES, Session, known_issues, targets_file

HANG = "testcases/test_hang.py::test_recovers"
# test_recovers hangs every ring.  The other testcases of an engine need one of each packet
# language: compute's is that of gfx (tools/simgpu/sim_pm4.c), as is all else but its ring.
ONE_OF_A_KIND = "test_recovers[ or not (compute or sdma1)"
# What has to be asked for: kmemleak follows every allocation.
WHOLE = "kmemleak=on"
# All that may skip: amdgpu has no knob to switch its resets off, and the framebuffer console, which
# draws beneath every other test, has a boot of its own in test_busy_console.py.
SKIPPED = {
    "test_without_a_reset_every_fence_ends": "no knob",
    "test_recovers_beside_a_busy_console": "no framebuffer device",
}
# The kernel's own tests, but for i915's; and what becomes of them.
OWN = {
    "test_drm_kunit": "xfail",  # a suite keeps a lock: see known-issues.toml
    "test_dma_buf": "pass",
    "test_ww_mutex": "pass",
}
CONSOLE_LOCK = ("-p", "harness.tests.vm.faultplugin", "--sim-fault=console_lock")


def session(tmp_path: Path, name: str, cmdline: str = "") -> Session:
    return Session(targets_file(tmp_path / "targets.toml", name, cmdline), tmp_path / "runs", name)


def test_every_testcase_passes_on_a_healthy_driver(tmp_path: Path) -> None:
    healthy = session(tmp_path, "sim-healthy", WHOLE)
    # The kernel's own selftests have a session of their own.
    left_out = "--ignore=testcases/test_selftests.py"
    done = healthy.run("testcases", left_out, "-k", ONE_OF_A_KIND)
    verdicts = healthy.verdicts()
    assert done.returncode == 0, done.stdout
    skipped = {name: v.reason for name, v in verdicts.items() if v.outcome == "skip"}
    assert {v.outcome for v in verdicts.values()} == {"pass", "skip"}
    assert skipped.keys() == SKIPPED.keys()
    assert all(SKIPPED[name] in why for name, why in skipped.items()), skipped
    assert {v.lockdep for v in verdicts.values()} == {"armed"}
    engines = ["gfx", *(f"compute{n}" for n in range(4)), "sdma0", "sdma1"]
    assert {f"test_recovers[{engine}]" for engine in engines} <= set(verdicts)
    (run,) = healthy.run_dirs()
    facts = run.facts()
    assert facts["machine"]["config_hash"]
    assert facts["machine"]["patches"]
    assert facts["cards"][0]["vendor"] == 0x1002
    assert (run.path / "report.html").exists()


def test_console_lock_in_recovery_fails_the_test_and_is_named(tmp_path: Path) -> None:
    faulty = session(tmp_path, "sim-console-lock")
    done = faulty.run(HANG, "-k", "gfx", *CONSOLE_LOCK)
    assert done.returncode == 1, done.stdout
    verdicts = faulty.verdicts()
    guilty = verdicts["test_recovers[gfx-console_lock-on]"]
    assert (guilty.outcome, guilty.lockdep) == ("fail", "went off")
    assert "console_lock" in guilty.reason
    assert "dma_fence_map" in guilty.reason
    (finding,) = [f for f in guilty.findings if f.severity == "fail"]
    assert finding.kind == "lockdep"
    for shown in (finding.text, done.stdout):
        assert "(dma_fence_map){" in shown
        assert "(console_lock){" in shown
        assert "*** DEADLOCK ***" in shown
    assert str(faulty.run_dirs()[-1].path) in done.stdout
    assert "rerun:" in done.stdout
    # Lockdep was armed again, by a reboot, before the next test.
    after = verdicts["test_recovers[gfx-console_lock-off]"]
    assert (after.outcome, after.lockdep) == ("pass", "armed")


@pytest.mark.deep
def test_the_kernels_own_tests_run_and_end_as_is_known(tmp_path: Path) -> None:
    kernels = session(tmp_path, "sim-own-tests")
    (tmp_path / KNOWN_ISSUES).write_text(known_issues())
    done = kernels.run("testcases/test_selftests.py", "-k", " or ".join(OWN))
    assert done.returncode == 0, done.stdout
    assert {name: v.outcome for name, v in kernels.verdicts().items()} == OWN
    for told in kernels.run_dirs()[-1].path.glob("tests/*/selftests.json"):
        ran = Counter(test["outcome"] for test in json.loads(told.read_text()))
        assert ran["pass"] > 0 == ran["fail"] + ran["missing"], told


@pytest.mark.deep
def test_fifty_hangs_of_every_engine_stay_clean(tmp_path: Path) -> None:
    stormy = session(tmp_path, "sim-storm")
    done = stormy.run("harness/tests/vm/victims/storm.py")
    assert done.returncode == 0, done.stdout
    verdicts = stormy.verdicts().values()
    assert len(verdicts) == 50 * 7
    assert {v.outcome for v in verdicts} == {"pass"}
