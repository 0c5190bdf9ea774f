"""A recording written by hand: what the decoder would give, one event a line."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from harness.evidence.jobs import JobLine
from harness.fence.ledger import EVENTS, Ledger, build
from harness.fence.trace import Loss, Recording, Strings, Table

__all__ = ["SECOND", "Tape", "job_line"]

SECOND = 1_000_000_000

_FENCE = {"context": np.uint32, "seqno": np.uint32, "driver": np.int32, "timeline": np.int32}
_COLUMNS: dict[str, dict[str, Any]] = {
    "lab:wait_begin": {"intr": np.uint8},
    "lab:wait_end": {"ret": np.int64},
    "lab:lock_begin": {"lock": np.uint64},
    "lab:lock_end": {"ret": np.int32},
    "lab:unlock": {"lock": np.uint64},
    "lab:commit_begin": {"commit": np.uint64},
    "lab:commit_end": {"ret": np.int32},
    "lab:swap_begin": {"commit": np.uint64},
    "lab:swap_end": {"ret": np.int32},
    "raw_syscalls:sys_enter": {"id": np.int64, "args": np.uint64},
    "raw_syscalls:sys_exit": {"id": np.int64, "ret": np.int64},
    "signal:signal_deliver": {"sig": np.int32},
    "i915:i915_request_queue": {"ctx": np.uint64, "seqno": np.uint32},
    "i915:i915_request_wait_begin": {"ctx": np.uint64, "seqno": np.uint32, "flags": np.uint32},
}


class Tape:
    """Events by time, in seconds; at one time in the order in which they are put."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[float, int, int, dict[str, Any]]]] = defaultdict(list)
        self._strings = Strings()
        self._losses: list[Loss] = []
        self._order = 0

    def put(self, event: str, time: float, pid: int = 1, *, cpu: int = 0, **fields: Any) -> None:
        """Any event, named as in tracefs."""
        self._rows[event].append((time, pid, self._order, {"cpu": cpu, **fields}))
        self._order += 1

    def fence(
        self,
        what: str,
        time: float,
        context: int,
        seqno: int,
        driver: str = "amdgpu",
        timeline: str = "gfx_0.0.0",
        pid: int = 1,
        cpu: int = 0,
    ) -> None:
        """dma_fence_WHAT."""
        self.put(
            f"dma_fence:dma_fence_{what}",
            time,
            pid,
            cpu=cpu,
            context=context,
            seqno=seqno,
            driver=self._strings.intern(driver),
            timeline=self._strings.intern(timeline),
        )

    def life(
        self, context: int, seqno: int, born: float, signaled: float | None, **who: Any
    ) -> None:
        """A fence from birth to its signal, somebody listening, never destroyed."""
        self.fence("init", born, context, seqno, **who)
        self.fence("enable_signal", born, context, seqno, **who)
        if signaled is not None:
            self.fence("signaled", signaled, context, seqno, **who)

    def job(
        self,
        entity: int,
        seqno: int,
        hw: tuple[int, int],
        begin: float,
        end: float | None,
        *,
        listen: bool = True,
        **end_by: Any,
    ) -> None:
        """A job of drm_sched: its two fences on contexts `entity` and `entity` + 1, run at once
        on pid 7, its hw fence, all ended at `end` by `end_by`."""
        sched: dict[str, Any] = {"driver": "drm_sched", "pid": 3}
        self.fence("init", begin, entity, seqno, **sched)
        self.fence("init", begin, entity + 1, seqno, **sched)
        self.put("gpu_scheduler:drm_run_job", begin, 7)
        self.fence("init", begin, *hw, pid=7)
        self.fence("signaled", begin, entity, seqno, driver="drm_sched", pid=7)
        if listen:
            self.fence("enable_signal", begin, *hw, pid=7)
        if end is not None:
            self.fence("signaled", end, *hw, **end_by)
            self.fence("signaled", end, entity + 1, seqno, driver="drm_sched", **end_by)

    def request(
        self, context: int, seqno: int, begin: float, end: float | None, pid: int = 3, **who: Any
    ) -> None:
        """A job of i915: one fence, named when it is queued, that a waiter listens to."""
        who = {"driver": "0000:00:02.0", "timeline": f"lab-i915[{pid}]", **who}
        self.fence("init", begin, context, seqno, pid=pid, **who)
        self.put("i915:i915_request_queue", begin, pid, ctx=context, seqno=seqno)
        self.fence("enable_signal", begin, context, seqno, pid=pid, **who)
        if end is not None:
            self.fence("signaled", end, context, seqno, pid=0, **who)

    def ioctl(
        self, pid: int, begin: float, end: float, result: int, command: int = 0xC0206449
    ) -> None:
        """One DRM ioctl, entered and left."""
        args = [3, command, 0x7FFF0000, 0, 0, 0]
        self.put("raw_syscalls:sys_enter", begin, pid, id=16, args=args)
        self.put("raw_syscalls:sys_exit", end, pid, id=16, ret=result)

    def lose(self, after: float, before: float, count: int | None = None) -> None:
        """Events of CPU 0 are missing between two times."""
        self._losses.append(Loss(0, _ns(after), _ns(before), count))

    def recording(self) -> Recording:
        """What Trace.read would give; an event that never came has no columns."""
        every = sorted((time, n) for rows in self._rows.values() for time, _, n, _ in rows)
        rank = {n: order for order, (_, n) in enumerate(every)}
        tables = {name: self._table(name, rank) for name in EVENTS}
        return Recording(tables, self._strings, tuple(self._losses))

    def ledger(
        self,
        last: float,
        *,
        late: float = 10.0,
        jobs: tuple[JobLine, ...] = (),
        before: Recording | None = None,
        cut: bool = False,
    ) -> Ledger:
        """The account from 0 to `last`."""
        comms = {1: "client", 7: "gfx-worker", 9: "kworker/tdr", 13: "kworker/u8:3"}
        end, patience = _ns(last), _ns(late)
        recording = self.recording()
        return build(
            recording,
            0,
            end,
            late_ns=patience,
            jobs=jobs,
            comms=comms,
            before=before,
            cut=cut,
        )

    def _table(self, name: str, rank: dict[int, int]) -> Table:
        rows = sorted(self._rows.get(name, []), key=lambda row: (row[0], row[2]))
        if not rows:
            return Table.without_records(None)
        default = _FENCE if name.startswith("dma_fence:") else {}
        kinds = _COLUMNS.get(name, default)
        return Table(
            np.array([_ns(time) for time, *_ in rows], np.int64),
            np.array([fields["cpu"] for *_, fields in rows], np.uint16),
            np.array([pid for _, pid, *_ in rows], np.int32),
            np.array([rank[n] for *_, n, _ in rows], np.int64),
            {
                column: np.array([fields[column] for *_, fields in rows], kind)
                for column, kind in kinds.items()
            },
        )


def job_line(context: int | None, seqno: int | None, error: int | None, **more: Any) -> JobLine:
    """A hang's last line; `error` None: it has not ended."""
    told: dict[str, Any] = {"client": 3, "job": 1, "engine": "gfx", "kind": "hang"}
    told |= {"submitted_ns": 0, "signaled": error is not None}
    return JobLine(context=context, seqno=seqno, error=error, **{**told, **more})


def _ns(seconds: float) -> int:
    return round(seconds * SECOND)
