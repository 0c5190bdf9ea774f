"""amdgpu's jobs that are slow but end: one packet over and over, and no shader.

The packet is a write that is waited for on gfx and compute, a copy on SDMA.
"""

from __future__ import annotations

import contextlib
import struct
import time
from typing import NamedTuple

from .amdgpu_device import Buffer, Command, Device, Engine, Job
from .amdgpu_job import Submitted
from .amdgpu_packets import COPIED, copy, fillers, store
from .slow import pieces

__all__ = ["Slow"]

# What a ring is told of an IB's length has 20 bits (nvd.h, SDMA_PKT_INDIRECT); all alignments fit.
_MAX_DWORDS = 0xFFF00
# SDMA's limit, the lowest of the rings' (amdgpu_ring.c, amdgpu_ring_max_ibs).
_MAX_IBS = 49
_TRIAL_NS = 10_000_000_000


class Slow(NamedTuple):
    """A ring, as it is used by one context."""

    device: Device
    context: int
    engine: Engine
    ring: int

    def submit(self, seconds: float) -> tuple[Submitted, int]:
        """A job that lasts about `seconds`, or as long as one can if that is less; and what was
        expected of it, in ns.  Raises AgentError."""

        def trial(count: int) -> dict[str, object]:
            job, used = self._job(count)
            job.fence.wait(_TRIAL_NS)
            told = job.outcome(0)
            job.fence.close()
            if told["signaled"]:
                for buffer in used:
                    self.device.free(buffer)
            return told

        most = (
            _MAX_DWORDS // len(self._packet(0, 0)) * min(_MAX_IBS, self.device.max_ibs(self.engine))
        )
        count, expected = pieces(trial, seconds, most)
        return self._job(count)[0], expected

    def _job(self, count: int) -> tuple[Submitted, list[Buffer]]:
        """A job of `count` packets at least, and its buffers."""
        length = len(self._packet(0, 0))
        times = -(-count * length // _MAX_DWORDS)
        repeated = -(-count // times)
        size = 4 * (length * repeated + 64)
        with contextlib.ExitStack() as undo:
            data = self.device.buffer(2 * COPIED if self.engine.name == "sdma" else 4096)
            undo.callback(self.device.free, data)
            commands = self.device.buffer(-(-size // 4096) * 4096)
            undo.callback(self.device.free, commands)
            packet = self._packet(data.address, data.address + len(data.memory) // 2)
            filled = self._fill(commands, packet, repeated)
            command = self.device.repeated(
                self.engine, self.ring, commands, filled, times, [data.handle]
            )
            at = time.monotonic_ns()
            job = self._send(command)
            fence = self.device.fence(job)
            undo.pop_all()
        submitted = Submitted(job, fence, at, None, fence.identity(), commands.handle)
        return submitted, [data, commands]

    def _send(self, command: Command) -> Job:
        return Job(self.context, self.engine, self.ring, self.device.send(self.context, command))

    def _packet(self, source: int, to: int) -> list[int]:
        minus_one = self.device.minus_one
        if self.engine.name == "sdma":
            return copy(source, to, minus_one)
        return store(self.engine.name, to, 1, minus_one)

    def _fill(self, buffer: Buffer, packet: list[int], count: int) -> int:
        """Write `packet` so often, and no-operations behind; the length in bytes."""
        data = struct.pack(f"<{len(packet)}I", *packet) * count
        multiple = max(16, self.engine.ib_size_alignment // 4)
        tail = fillers(self.engine.name, len(data) // 4, multiple)
        data += struct.pack(f"<{len(tail)}I", *tail)
        buffer.memory[: len(data)] = data
        return len(data)
