"""More fences than a small trace buffer holds; run by test_fences.py in a session of its own."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.live.dut import Dut

# On the target, as root: sw_sync is debugfs.  Numbers: drivers/dma-buf/sync_debug.h.
# One INC signals them all under a spinlock with interrupts off (sw_sync.c, sync_timeline_signal),
# faster than anybody reads them out: a flood one by one was once outrun by the collector.
FLOOD = """
import fcntl, os, resource, struct
resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
timeline = os.open("/sys/kernel/debug/sync/sw_sync", os.O_RDWR)
for value in range(1, 8001):
    fcntl.ioctl(timeline, 0xC0285700, bytearray(struct.pack("I32si", value, b"flood", 0)))
fcntl.ioctl(timeline, 0x40045701, struct.pack("I", 8000))
"""


def test_flood(dut: Dut) -> None:
    """Harmless in itself."""
    done = dut.agent.call("run", Deadline(120), argv=["python3", "-c", FLOOD], timeout=110)
    assert done["status"] == 0, done["stderr"]
