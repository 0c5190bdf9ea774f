"""tools/systemd as shipped, under a real systemd: made up for, stopped, run to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.tests.inner import ROOT
from harness.tests.loopback.posing import posing
from harness.tests.loopback.usermanager import UserManager

DAY_S = 86400.0
# Longest that a night takes to its first test on a machine that does much else, in seconds.
PATIENCE_S = 600.0
# One says that it runs and does so while it is held; one is a regression.
TESTS = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def test_waits(dut):
    (HERE / "running").touch()
    while (HERE / "hold").exists():
        time.sleep(0.05)

def test_body_fails(dut):
    assert dut.boot_id == "another", "as planned"
"""
# What the stamp of a finished .venv says, by the Python that the unit will find.
STAMPS = """
import sys
from importlib.machinery import SourceFileLoader
print(*SourceFileLoader("lab", sys.argv[1]).load_module().stamps(), sep="\\n")
"""


@pytest.fixture
def manager() -> Iterator[UserManager]:
    made = UserManager()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout that is set up, whose list has one box, with two tests of its own."""
    box = posing(tmp_path / "box")
    # A name that only survives when it is escaped, and unescaped, as it should be.
    place = tmp_path / "check out-1"
    shutil.copytree(
        ROOT / "harness", place / "harness", ignore=shutil.ignore_patterns("tests", "__pycache__")
    )
    (place / "tools").mkdir()
    for name in ("tools/lab", "pyproject.toml", "requirements.lock", "conftest.py"):
        shutil.copy(ROOT / name, place / name)
    (place / "testcases").mkdir()
    (place / "testcases/test_two.py").write_text(TESTS)
    (place / "targets.toml").write_text(
        f'[targets.box]\ndriver = "amdgpu"\naddress = "127.0.0.1"\nport = {box.port}\n'
        f'user = "root"\nkey = "{box.user_key}"\nhost_key = "{box.public()}"\n'
    )
    binaries = place / ".venv/bin"
    binaries.mkdir(parents=True)
    lab = binaries / "lab"
    lab.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness.cli "$@"\n')
    lab.chmod(0o755)
    told = subprocess.run(
        ["python3", "-c", STAMPS, place / "tools/lab"],
        env={"PATH": os.defpath}, check=True, capture_output=True,
    )  # fmt: skip
    (place / ".venv/tdrlab-stamp").write_bytes(told.stdout)
    yield place
    box.stop()


@pytest.mark.deep
def test_the_units_work_as_shipped(manager: UserManager, checkout: Path) -> None:
    units = manager.home / ".config/systemd/user"
    units.mkdir(parents=True)
    for unit in (ROOT / "tools/systemd").iterdir():
        shutil.copy(unit, units)
    argv = ["systemd-escape", "--path", str(checkout)]
    instance = subprocess.run(argv, check=True, text=True, capture_output=True).stdout.strip()
    service, timer = (f"tdrlab-nightly@{instance}.{kind}" for kind in ("service", "timer"))

    # The host slept at one o'clock: the night begins when the timer does.
    stamp = manager.home / ".local/share/systemd/timers" / f"stamp-{timer}"
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    os.utime(stamp, (time.time() - 2 * DAY_S,) * 2)
    hold = checkout / "testcases/hold"
    hold.touch()
    manager.systemctl("daemon-reload")
    manager.systemctl("enable", "--now", timer)
    deadline = Deadline(PATIENCE_S)
    while not (checkout / "testcases/running").exists():
        assert manager.shown(service, "ActiveState") != ["failed"]
        assert deadline.pause(0.1)

    manager.systemctl("stop", service)
    assert manager.shown(service, "MainPID", "ExecMainStatus") == ["0", "3"]
    assert entries(checkout) == [("box", False), ("interrupted", None)]

    hold.unlink()
    manager.systemctl("start", "--wait", service)
    # A regression: that is the night's result, and no failure of the service.
    assert manager.shown(service, "Result", "ExecMainStatus") == ["success", "1"]
    assert entries(checkout) == [("box", True), ("done", None)]
    assert "as planned" in (checkout / "runs/site/index.html").read_text()
    # Until it has heard of the service's end, the timer does not say when it goes off next.
    while " 01:00:00 " not in manager.shown(timer, "NextElapseUSecRealtime")[0]:
        assert deadline.pause(0.1)


def entries(checkout: Path) -> list[tuple[object, object]]:
    """How the newest night's targets and the night itself ended."""
    path = max((checkout / "runs/nights").iterdir()) / "night.jsonl"
    return [
        (entry.get("target", entry.get("how")), entry.get("done"))
        for entry in journal.read(path)
        if entry["what"] in ("target-end", "night-end")
    ]
