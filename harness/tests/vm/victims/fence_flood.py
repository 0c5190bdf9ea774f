"""More fences than a small trace buffer holds; run by test_fences.py in a session of its own."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.dut import Dut

# On the target, as root: sw_sync is debugfs.  Numbers: drivers/dma-buf/sync_debug.h.
FLOOD = """
import fcntl, os, struct
timeline = os.open("/sys/kernel/debug/sync/sw_sync", os.O_RDWR)
for value in range(1, 20001):
    made = bytearray(struct.pack("I32si", value, b"flood", 0))
    fcntl.ioctl(timeline, 0xC0285700, made)
    fcntl.ioctl(timeline, 0x40045701, struct.pack("I", 1))
    os.close(struct.unpack("I32si", made)[2])
"""


def test_flood(dut: Dut) -> None:
    """Harmless in itself."""
    done = dut.agent.call("run", Deadline(120), argv=["python3", "-c", FLOOD], timeout=110)
    assert done["status"] == 0, done["stderr"]
