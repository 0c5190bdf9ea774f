"""Memory pressure on a target, while a block runs: whoever allocates may have to reclaim.

The kernel is told to keep most of what is free so, and somebody reads more than may then be
cached.  Nobody runs out of memory: what is read is given up first, and there is always some.

Facts: Documentation/admin-guide/sysctl/vm.rst (min_free_kbytes, watermark_scale_factor):
kswapd begins below 5/4 of what shall be kept and goes on up to 3/2 of it; below 1 of it whoever
allocates reclaims himself.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.gpu.base import Knob
from harness.link.agent import Agent
from harness.live.generic import Generic

__all__ = ["Pressure"]

_MIN_FREE, _DROP = "/proc/sys/vm/min_free_kbytes", Knob("/proc/sys/vm/drop_caches", "3")
# Of what is free: what is to be kept so, what is read, and what is free again only if something
# was reclaimed: without that it stays at 1 - _READ.
_KEPT, _READ, _RECLAIMED = 0.7, 0.17, 0.85
# What any of it may take, in seconds: emulation reads 5 MB/s on a loaded host.
_LIMIT_S = 300.0
_LOOK_S = 0.2


class Pressure:
    """A context manager; the knob that it turns is restored with the test's others."""

    def __init__(self, agent: Agent, reader: Generic) -> None:
        """`reader` is busy meanwhile."""
        self._agent = agent
        self._reader = reader
        self._reading: Future[int] | None = None
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        """Raises TargetError where nothing is reclaimed."""
        free = self._free()
        kept = str(int(_KEPT * free))
        self._agent.call("knob", Deadline(_LIMIT_S), path=_MIN_FREE, value=kept)
        size = int(_READ * free) << 10
        self._reader.churn(size, Deadline(_LIMIT_S), endless=False)
        deadline = Deadline(_LIMIT_S)
        while self._free() < _RECLAIMED * free:
            if not deadline.pause(_LOOK_S):
                raise TargetError(
                    f"nothing is reclaimed: of {free} KiB {self._free()} KiB are free",
                    where=_MIN_FREE,
                    cure="see who else uses memory there",
                )
        pool = self._ending.enter_context(ThreadPoolExecutor(1))
        self._reading = pool.submit(self._reader.churn, size, Deadline(4 * _LIMIT_S), endless=True)
        return self

    def drop(self, *more: Knob | None) -> None:
        """Have all caches given back by hand, and what `more` says."""
        for knob in (*more, _DROP):
            if knob is not None:
                data = b64encode(f"{knob.value}\n".encode()).decode()
                limit = {"seconds": _LIMIT_S}
                self._agent.call("write", Deadline(_LIMIT_S), path=knob.path, data=data, **limit)

    def __exit__(self, *exc: object) -> None:
        """Raises what the reader met."""
        with self._ending:
            self._reader.settle()
            if self._reading is not None:
                self._reading.result()

    def _free(self) -> int:
        """KiB that nobody uses, not even for a cache."""
        found = self._agent.call("read", Deadline(_LIMIT_S), path="/proc/meminfo")["data"]
        lines = b64decode(found).decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemFree:"))
