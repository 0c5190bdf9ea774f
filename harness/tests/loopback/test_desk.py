"""What `lab` does for a person at a desk, on a machine of our own making."""

from __future__ import annotations

from pathlib import Path

from harness.tests.inner import Session
from harness.tests.loopback.posing import BOOT_ID, FAKE_BOOT, lab, listed, posing


def test_shell_runs_a_command_there_with_the_key_checked(session: Session) -> None:
    done = lab(session, "shell", "box", "--", "cat", BOOT_ID)
    assert (done.returncode, done.stdout.strip()) == (0, FAKE_BOOT), done.stderr
    assert lab(session, "shell", "box", "--", "false").returncode == 1


def test_doctor_tells_line_by_line_what_is_missing(session: Session) -> None:
    done = lab(session, "doctor", "box")
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok SSH, python3, agent") for line in lines)
    assert "no lockdep: not in this kernel" in lines
    assert any(line.startswith("no GPU driven by amdgpu") for line in lines)
    assert any("CONFIG_PROVE_LOCKING=y" in line for line in lines)
    for number, line in enumerate(lines):
        if line.startswith("no "):
            assert lines[number + 1].startswith("   cure: "), line


def test_console_of_a_target_without_one_is_told(session: Session) -> None:
    done = lab(session, "console", "box")
    assert done.returncode == 3
    assert "has no console" in done.stderr


def test_target_without_python_is_told(tmp_path: Path, session: Session) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith("python"):
            (bare / program.name).symlink_to(program)
    box = posing(tmp_path / "bare", SetEnv=f"HOME={tmp_path} PATH={bare}")
    try:
        listed(session.targets, box)
        done = lab(session, "doctor", "box")
    finally:
        box.stop()
    assert done.returncode == 4, done.stderr
    told = done.stdout.splitlines()
    (line,) = [number for number, text in enumerate(told) if text.startswith("no ")]
    assert "python3" in told[line]
    assert "python3" in told[line + 1]
