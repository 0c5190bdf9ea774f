"""The console testcase where there is a framebuffer console: both virtual targets have none by
default, for it would draw beneath every other test."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.inner import Session, targets_file

CASE = "testcases/test_console.py"
# On the modelled G33 every word that is drawn is a message to the model: a small screen.
G33 = "drm_kms_helper.fbdev_emulation=1 video=VGA-1:640x480"


def check(session: Session, *more: str) -> None:
    done = session.run(CASE, *more)
    outcomes = {name: (v.outcome, v.lockdep) for name, v in session.verdicts().items()}
    assert set(outcomes.values()) == {("pass", "armed")}, done.stdout
    assert "test_recovers_beside_a_busy_console" in outcomes


def test_recovery_beside_a_busy_console(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-fbcon", "amdgpu.sim_fbdev=1")
    # Its display still is a client's that asks for it.
    check(Session(targets, tmp_path / "runs", "sim-fbcon"), "testcases/test_display.py")


@pytest.mark.deep
def test_recovery_beside_a_busy_console_on_gen3(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-fbcon3", G33, chip="g33", tdr_s=90)
    check(Session(targets, tmp_path / "runs", "sim-fbcon3"))
