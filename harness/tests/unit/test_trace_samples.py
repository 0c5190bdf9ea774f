"""Recorded traces, decoded: everything the kernel counted is there, lost or found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.fence.trace import Trace
from harness.tests.traces import Name, sample


@pytest.mark.parametrize("name", ["hangs", "overflow"])
def test_what_is_found_and_what_was_lost_is_what_the_kernel_counted(
    name: Name, tmp_path: Path
) -> None:
    trace = Trace.open(sample(name, tmp_path))
    found = trace.read(trace.events)
    for cpu, stats in trace.stats().items():
        rows = sum(int((table.cpu == cpu).sum()) for table in found.tables.values())
        assert rows == stats.read
        lost = [loss.count for loss in found.losses if loss.cpu == cpu]
        assert None not in lost
        assert sum(count or 0 for count in lost) == stats.overrun + stats.dropped
