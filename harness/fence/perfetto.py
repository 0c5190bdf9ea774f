"""The ledger as a Perfetto trace, to be opened at ui.perfetto.dev.

Tracks for each timeline's role and each waiter, slices for a fence's time pending and for waits,
the reset window and lost events beside them, instants for what signalled and was destroyed.
Format: protos/perfetto/trace/track_event/{track_event,track_descriptor}.proto of Perfetto.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from harness.fence.fences import Fence
from harness.fence.lanes import FenceLane, fence_lanes, stacked, wait_lanes
from harness.fence.ledger import Ledger

__all__ = ["write"]

# One writer, so one sequence; and the first packet says that nothing came before it.
_SEQUENCE = 1
_CLEARED = 1  # SEQ_INCREMENTAL_STATE_CLEARED
_BEGIN, _END, _INSTANT = 1, 2, 3  # TrackEvent.Type
_EXPLICIT = 3  # TrackDescriptor.ChildTracksOrdering
_LONGEST = 200
_BATCH = 2000

Values = Mapping[str, str | int | bool | None]


def write(ledger: Ledger, file: BinaryIO, title: str = "fences") -> None:
    """Write all of `ledger` to `file`, which is open for bytes.  Times are the target's own."""
    writer = _Writer(file)
    root = writer.track(title, None)
    recovery = writer.track("recovery", root)
    for level, spans in _levels([(r.begin, _or(r.end, ledger.last)) for r in ledger.recoveries]):
        track = recovery if not level else writer.track("recovery", root)
        for nth in spans:
            run = ledger.recoveries[nth]
            name = "reset" if run.end is not None else "reset, never ended"
            comm = ledger.comms.get(run.pid, "")
            detail: Values = {"pid": run.pid, "comm": comm}
            writer.slice(track, run.begin, _or(run.end, ledger.last), name, detail)
    if ledger.jobs:
        jobs = writer.track("jobs", root)
        for job in ledger.jobs:
            writer.instant(
                jobs,
                job.submitted_ns,
                f"{job.kind or 'job'} on {job.engine}",
                {"client": job.client, "error": job.error, "signaled": job.signaled},
            )
    for lane in fence_lanes(ledger):
        _fences(writer, ledger, lane, root)
    if ledger.waits:
        waiters = writer.track("waiters", root)
        for waiter in wait_lanes(ledger):
            # One thread waits for one fence at a time.
            track = writer.track(waiter.name, waiters)
            for wait in waiter.waits:
                name = f"{wait.driver} {wait.timeline} {wait.context}:{wait.seqno}"
                detail = {
                    "interruptible": wait.interruptible,
                    "result": wait.result,
                    "never ended": wait.end is None or None,
                }
                writer.slice(track, wait.begin, _or(wait.end, ledger.last), name, detail)
    _losses(writer, ledger, root)
    writer.flush()


def _fences(writer: _Writer, ledger: Ledger, lane: FenceLane, root: int) -> None:
    levels = stacked(lane.begin.tolist(), lane.end.tolist())
    # Tracks of one name and parent are shown as one, with a row each.
    tracks = [writer.track(lane.name, root) for _ in range(max(levels, default=-1) + 1)]
    spans = zip(lane.rows.tolist(), lane.begin.tolist(), lane.end.tolist(), levels, strict=True)
    for row, begin, end, level in spans:
        fence = ledger.fences[row]
        name = f"{fence.context}:{fence.seqno}"
        writer.slice(tracks[level], begin, end, f"{name} {fence.state}", _detail(fence))
        if fence.signaled is not None:
            writer.instant(tracks[level], fence.signaled, f"{name} signalled", {})
        if fence.destroyed is not None:
            writer.instant(tracks[level], fence.destroyed, f"{name} destroyed", {})


def _detail(fence: Fence) -> Values:
    return {
        "context": fence.context,
        "seqno": fence.seqno,
        "state": str(fence.state),
        "error": fence.error,
        "made by pid": fence.maker,
        "signalled by pid": fence.signaler if fence.signaled is not None else None,
        "renumbered": fence.renumbered or None,
    }


def _losses(writer: _Writer, ledger: Ledger, root: int) -> None:
    by_cpu: dict[int, list[tuple[int, int, int | None]]] = {}
    for loss in ledger.losses:
        begin, end = max(loss.after_ns, ledger.first), min(loss.before_ns, ledger.last)
        if begin <= end:
            by_cpu.setdefault(loss.cpu, []).append((begin, end, loss.count))
    for cpu, found in sorted(by_cpu.items()):
        found.sort(key=lambda each: each[0])
        for _, spans in _levels([each[:2] for each in found]):
            track = writer.track(f"events lost on CPU {cpu}", root)
            for nth in spans:
                writer.slice(track, *found[nth][:2], "events lost", {"count": found[nth][2]})


def _levels(spans: list[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    """The numbers of the spans on each level."""
    levels = stacked([begin for begin, _ in spans], [end for _, end in spans])
    for level in range(max(levels, default=-1) + 1):
        yield level, [nth for nth, own in enumerate(levels) if own == level]


class _Writer:
    """Packets into a file, some at a time: traces may be joined by concatenation, as all messages
    of repeated fields may."""

    def __init__(self, file: BinaryIO) -> None:
        # By name: it brings no types.
        protos: Any = importlib.import_module("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
        self._new: Any = protos.Trace
        self._trace = self._new()
        self._held = 0
        self._file = file
        self._tracks = 0
        self._first = True

    def track(self, name: str, parent: int | None) -> int:
        """A new track, shown in the order of their making; its number."""
        packet = self._packet()
        self._tracks += 1
        descriptor = packet.track_descriptor
        descriptor.uuid = self._tracks
        descriptor.name = _clean(name)
        descriptor.child_ordering = _EXPLICIT
        descriptor.sibling_order_rank = self._tracks
        if parent is not None:
            descriptor.parent_uuid = parent
        return self._tracks

    def slice(self, track: int, begin: int, end: int, name: str, detail: Values) -> None:
        """From `begin` to `end` ns."""
        self._event(track, begin, _BEGIN, name, detail)
        self._event(track, end, _END, "", {})

    def instant(self, track: int, time: int, name: str, detail: Values) -> None:
        """At `time` ns."""
        self._event(track, time, _INSTANT, name, detail)

    def _event(self, track: int, time: int, kind: int, name: str, detail: Values) -> None:
        packet = self._packet()
        packet.timestamp = max(time, 0)
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name:
            event.name = _clean(name)
            event.categories.append("fence")
        for key, value in detail.items():
            if value is None:
                continue
            note = event.debug_annotations.add()
            note.name = key
            if isinstance(value, bool):
                note.bool_value = value
            elif isinstance(value, int):
                note.int_value = value
            else:
                note.string_value = _clean(value)

    def flush(self) -> None:
        """Write what there is."""
        self._file.write(self._trace.SerializeToString())
        # Not cleared but new: the old one would keep its memory.
        self._trace = self._new()
        self._held = 0

    def _packet(self) -> Any:
        if self._held == _BATCH:
            self.flush()
        self._held += 1
        packet = self._trace.packet.add()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if self._first:
            packet.sequence_flags = _CLEARED
            self._first = False
        return packet


def _or(time: int | None, otherwise: int) -> int:
    return otherwise if time is None else time


def _clean(text: str) -> str:
    """A name from a target, bounded, and of what UTF-8 can carry."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()
