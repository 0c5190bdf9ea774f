"""This machine, posing as another: a real sshd that shows a boot_id of its own.

So that whole sessions run against it; the harness refuses the very machine it runs on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tests.inner import ROOT, Session
from harness.tests.loopback.sshd import Sshd, why_not

__all__ = ["BOOT_ID", "FAKE_BOOT", "VICTIMS", "entry", "lab", "listed", "posing"]

VICTIMS = "harness/tests/loopback/victims/days.py"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
FAKE_BOOT = "11111111-2222-3333-4444-555555555555"

# Another boot_id for the server and all below it, by a mount of its own.
MASK = """
import os, subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[2]], check=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


def posing(folder: Path, **settings: str) -> Sshd:
    """A server that looks like another machine; skips the test where that cannot be done."""
    if reason := why_not():
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    fake = folder / "boot_id"
    fake.write_text(FAKE_BOOT + "\n")
    prefix = [
        *("unshare", "--mount", "--propagation", "private"),
        *(sys.executable, "-c", MASK, str(fake), BOOT_ID),
    ]
    allowed = ["unshare", "--mount", "mount", "--bind", str(fake), BOOT_ID]
    if shutil.which("unshare") is None or subprocess.run(allowed, capture_output=True).returncode:
        pytest.skip("changing the mounts of a process needs root")
    if not os.access("/dev/kmsg", os.R_OK | os.W_OK):
        pytest.skip("/dev/kmsg cannot be read here")
    return Sshd(folder / "sshd", prefix=prefix, **settings).start()


def listed(path: Path, box: Sshd, **keys: str) -> Path:
    """A target list whose only entry is `box`."""
    path.write_text(entry(box, "box", limits={"connect_s": 5, "boot_s": 8}, **keys))
    return path


def entry(box: Sshd, name: str, *, limits: dict[str, int], **keys: str | int) -> str:
    """The part of a target list that calls `box` by `name`, with other `keys` than its own."""
    settings = {
        "driver": "amdgpu",
        "address": "127.0.0.1",
        "port": box.port,
        "user": "root",
        "key": str(box.user_key),
        "host_key": box.public(),
        **keys,
    }
    # What JSON writes of strings and numbers, TOML reads.
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    within = ", ".join(f"{key} = {value}" for key, value in limits.items())
    return f"[targets.{name}]\n{lines}limits = {{ {within} }}\n"


def lab(session: Session, *args: str) -> subprocess.CompletedProcess[str]:
    """The `lab` command, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "--inventory", str(session.targets), *args],
        cwd=ROOT, text=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
