"""The framebuffer console on the modelled G33, which is off by default there: clearing it goes
through the aperture word by word, every one a message to the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.inner import Session, targets_file

CMDLINE = "drm_kms_helper.fbdev_emulation=1 video=VGA-1:640x480"


@pytest.mark.deep
def test_recovery_beside_a_busy_console(tmp_path: Path) -> None:
    path = targets_file(tmp_path / "targets.toml", "sim-fbcon", CMDLINE, chip="g33", tdr_s=90)
    session = Session(path, tmp_path / "runs", "sim-fbcon")
    done = session.run("testcases/test_console.py")
    (judged,) = session.verdicts().values()
    assert (judged.outcome, judged.lockdep) == ("pass", "armed"), done.stdout
