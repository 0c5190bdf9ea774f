"""Tests whose run lies on a small disk of its own, which the first of them fills; run by
test_session_ends.py, by name, in a session of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from harness.live.dut import Dut


@pytest.fixture
def room(dut: Dut) -> Iterator[None]:
    """There is some again after the test."""
    disk = os.statvfs(dut.run.path)
    assert disk.f_blocks * disk.f_frsize < 64 << 20, "this would fill a disk of somebody's"
    yield
    (dut.run.path / "filler").unlink()


def test_a_disk_fills_up(dut: Dut, room: None) -> None:
    """No byte is left here for what the kernel says."""
    with contextlib.suppress(OSError), (dut.run.path / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    lines = "n=0; while [ $n -lt 300 ]; do echo does not fit > /dev/kmsg; n=$((n + 1)); done"
    dut.call("run", argv=["sh", "-c", lines])


def test_b_after_the_disk(dut: Dut) -> None:
    """Feels nothing of it."""
    assert dut.health()["debug_locks"] is None
