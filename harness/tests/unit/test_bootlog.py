"""`lab log`: the merged log of a run, as a person sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.errors import UsageError
from harness.evidence.rundir import RunDir
from harness.lab import bootlog

KMSG = b"6,1,1000000,-,caller=T1;first\n6,2,2000000,-,caller=T1;second\n6,5,5000000,-;fifth\n"
CONSOLE = (
    b"login:\r\n[    1.000000][    T1] first\r\n[    3.000000][    T1] third \x1b[31m\r\n"
    b"[    6.000000][    T1] Kernel panic - not syncing: x\r\n"
    b"[    0.000000][    T0] Linux version 6.12 (a@b)\r\n"
)
DUMP = b"Panic#1 Part1\n<0>[    6.000000][    T1] Kernel panic - not syncing: x\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "box")
    made.update(boots=["abc", "def"])
    folder = made.boot("abc")
    (folder / "kmsg").write_bytes(KMSG)
    (folder / "console.log").write_bytes(CONSOLE)
    (folder / "pstore").mkdir()
    (folder / "pstore" / "dmesg-ramoops-0").write_bytes(DUMP)
    made.boot("def")
    return made


def test_each_line_is_told_once_with_its_sources(run: RunDir) -> None:
    done = CliRunner().invoke(main, ["log", str(run.path), "--boot", "a"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "== boot abc",
        "kc   [    1.000000][    T1] first",
        "k    [    2.000000][    T1] second",
        "-- records 3 to 4 are missing (2); known from elsewhere: 1",
        "c    [    3.000000][    T1] third \\x1b[31m",
        "k    [    5.000000] fifth",
        "cp   [    6.000000][    T1] Kernel panic - not syncing: x",
        "-- console: lines of another boot, left out: 1",
    ]
    unheard = CliRunner().invoke(main, ["log", str(run.path), "--unheard"]).output.splitlines()
    assert [line for line in unheard if line.startswith("k")] == []
    assert "== boot def" in unheard


def test_a_boot_that_is_not_there_is_told(run: RunDir) -> None:
    assert bootlog.boots(run) == ["abc", "def"]
    with pytest.raises(UsageError, match="no boot 'x'"):
        bootlog.boots(run, "x")
