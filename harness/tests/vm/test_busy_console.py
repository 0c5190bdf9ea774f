"""The console testcase where there is a framebuffer console: sim-navi has none by default, for it
would draw beneath every other test."""

from __future__ import annotations

from pathlib import Path

from harness.tests.inner import Session, targets_file

CASES = ("testcases/test_console.py", "testcases/test_display.py")


def test_recovery_beside_a_busy_console(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-fbcon", "amdgpu.sim_fbdev=1")
    session = Session(targets, tmp_path / "runs", "sim-fbcon")
    done = session.run(*CASES)
    outcomes = {name: (v.outcome, v.lockdep) for name, v in session.verdicts().items()}
    # A display client still has its picture to itself.
    assert outcomes == {
        "test_recovers_beside_a_busy_console": ("pass", "armed"),
        "test_picture_and_flips_survive_a_hang": ("pass", "armed"),
    }, done.stdout
