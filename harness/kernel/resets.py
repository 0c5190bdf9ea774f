"""GPU events: what the drivers print when a hang is found and recovery runs, in one form.

Events in order, and from them each hang with its recovery: which engine, whose job, how far the
reset went and how it ended, as far as the log can prove it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from harness.kernel.records import WIDEST, Record
from harness.kernel.reset_lines import HINTS, LINES, Line, Scope, Step, device_of

__all__ = ["HINTS", "GpuEvent", "Outcome", "Recovery", "find", "going_on", "recoveries", "trail"]

# "begun": the log shows a reset's beginning and no end.  i915 never prints an end: whether the
# reset helped shows only in what comes after.  "": no recovery was seen.
Outcome = Literal["soft-recovered", "recovered", "failed", "wedged", "begun", ""]
# The steps that begin or end something; the others tell more of it.
_MILESTONES: frozenset[Step] = frozenset(
    ("hang", "soft-recovered", "reset-begin", "reset-done", "escalated", "reset-failed", "wedged")
)
_HINTED = re.compile("|".join(re.escape(hint.decode()) for hint in HINTS))
_ENDS: dict[Step, Outcome] = {
    "soft-recovered": "soft-recovered",
    "reset-done": "recovered",
    "reset-failed": "failed",
    "wedged": "wedged",
}


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One step of a recovery.  `engine` is the ring or engine the driver named, or "".

    `scope`: what is reset.  `process` and `pid`: the guilty one's, where the line says so.
    `why`: the driver's reason, method or errno.
    """

    step: Step
    engine: str
    seq: int
    usec: int
    text: str
    driver: str = ""
    device: str = ""
    scope: Scope = ""
    process: str = ""
    pid: int = 0
    why: str = ""

    @property
    def outcome(self) -> Outcome:
        """How a recovery ends with this step; "" where it does not."""
        return _ENDS.get(self.step, "")


@dataclass(slots=True)
class Recovery:
    """A hang and what the driver did about it.  `scope`: the widest reset that was begun."""

    driver: str
    device: str
    engine: str
    scope: Scope = ""
    process: str = ""
    pid: int = 0
    why: str = ""
    outcome: Outcome = ""
    coredump: bool = False
    banned: bool = False
    events: list[GpuEvent] = field(default_factory=list)

    @property
    def title(self) -> str:
        """A line a driver developer would write; built from names only."""
        engine = f" on {self.engine}" if self.engine else ""
        process = f" by {self.process}" if self.process else ""
        scope = {"engine": "engine reset", "gpu": "GPU reset", "": ""}[self.scope]
        end = {
            "soft-recovered": "soft recovered",
            "recovered": f"{scope or 'reset'} succeeded",
            "failed": f"{scope or 'reset'} failed",
            "wedged": "wedged",
            "begun": f"{scope or 'reset'} begun, no end in the log",
            "": "the context is banned" if self.banned else "no recovery in the log",
        }[self.outcome]
        what = "hang" if self.hung else "reset without a hang"
        return f"{self.driver} {what}{engine}{process}: {end}"

    @property
    def hung(self) -> bool:
        """Whether the driver said so: by a message, or by i915's reason for a reset."""
        said = any(event.step in ("hang", "soft-recovered") for event in self.events)
        return said or bool(self.driver == "i915" and self.why)


def trail(records: Iterable[Record]) -> Iterator[GpuEvent]:
    """All that `records` tell of hangs and recoveries, in order."""
    for record in records:
        if record.facility:
            continue
        if not _HINTED.search(record.text):
            continue
        for line in record.lines():
            if event := _event(line[:WIDEST], record):
                yield event


def find(records: Iterable[Record]) -> list[GpuEvent]:
    """The GPU events in `records` that begin or end something, in order."""
    return [event for event in trail(records) if event.step in _MILESTONES and not _repeats(event)]


def _repeats(event: GpuEvent) -> bool:
    """drm_dev_wedged_event() says again what the driver said of its own reset."""
    return event.step == "reset-done" and not event.scope


def _event(text: str, record: Record) -> GpuEvent | None:
    for row in LINES:
        if (match := row.pattern.search(text)) and _fits(row, text):
            said = match.groupdict()
            driver, device = device_of(text)
            return GpuEvent(
                row.step,
                said.get("engine") or said.get("ring") or "",
                record.seq,
                record.usec,
                record.text,
                row.driver or driver,
                device,
                row.scope,
                (said.get("process") or "").strip(),
                max(int(said.get("pid") or 0), 0),
                (said.get("why") or said.get("how") or said.get("ret") or "").strip(),
            )
    return None


def _fits(row: Line, text: str) -> bool:
    """Whether the line is the row's driver's, where it names one."""
    driver, _ = device_of(text)
    return not row.driver or driver in ("", row.driver) or (row.driver, driver) in _FAMILIES


# A display controller or a bus that speaks for the GPU's driver.
_FAMILIES = {("msm", "msm_dpu"), ("msm", "adreno"), ("msm", "platform"), ("etnaviv", "etnaviv")}


def going_on(events: Iterable[GpuEvent]) -> bool:
    """Whether a reset of a whole GPU has begun and not ended, in `events` of `find`.  One that
    fails may say so twice: that it failed, and that the GPU is wedged."""
    begun = 0
    for event in events:
        if event.scope == "engine":
            continue
        if event.step == "reset-begin":
            begun += 1
        elif event.step in ("reset-done", "reset-failed", "escalated", "wedged"):
            begun = max(begun - 1, 0)
    return begun > 0


def recoveries(events: Iterable[GpuEvent]) -> list[Recovery]:
    """Each hang of a `trail` with its recovery.  A reset that nothing was said before is one too:
    i915 prints a hang only when it captures an error state, and somebody may ask for a reset."""
    grouping = _Grouping()
    for event in events:
        grouping.add(event)
    return grouping.all


class _Grouping:
    def __init__(self) -> None:
        self.all: list[Recovery] = []
        self._open: list[Recovery] = []
        self._before: list[GpuEvent] = []

    def add(self, event: GpuEvent) -> None:
        if event.step in ("hang", "soft-recovered"):
            self._hang(event)
        elif event.step == "reset-begin":
            self._begin(event)
        elif event.step in ("process", "banned", "coredump", "reset-step", "lost", "escalated"):
            self._detail(event)
        elif event.step != "fault":
            self._end(event)

    def _hang(self, event: GpuEvent) -> None:
        # i915 prints no end: what was begun ends, as far as the log can tell, with the next hang.
        if event.driver == "i915":
            self._close(self._of(event))
        self._start(event)

    def _start(self, event: GpuEvent) -> Recovery:
        before = [said for said in self._before if said.driver == event.driver]
        hints = [said.engine for said in before if said.step == "reset-step" and said.engine]
        made = Recovery(
            event.driver,
            event.device,
            event.engine or (hints[-1] if hints else ""),
            process=event.process,
            pid=event.pid,
            why=event.why,
            events=[*before, event],
            coredump=any(said.step == "coredump" for said in before),
        )
        self._before = []
        self.all.append(made)
        if event.step == "soft-recovered":
            made.scope, made.outcome = "engine", "soft-recovered"
        else:
            self._open.append(made)
        return made

    def _begin(self, event: GpuEvent) -> None:
        mine = [r for r in self._of(event) if not self._begun_anew(r, event)]
        if not mine:
            self._close(self._of(event))
            mine = [self._start(event)]
        for recovery in mine:
            recovery.scope = "gpu" if "gpu" in (recovery.scope, event.scope) else event.scope
            recovery.outcome = "begun"
            recovery.engine = recovery.engine or event.engine
            recovery.why = recovery.why or event.why
            self._note(recovery, event)

    def _begun_anew(self, recovery: Recovery, event: GpuEvent) -> bool:
        """Whether a reset of this scope was begun for it before: then this is another one."""
        if event.engine and recovery.engine and event.engine != recovery.engine:
            return event.scope == "engine"
        return any(e.step == "reset-begin" and e.scope == event.scope for e in recovery.events)

    def _detail(self, event: GpuEvent) -> None:
        mine = self._of(event)
        if not mine or (event.step == "reset-step" and not event.scope):
            mine = [r for r in self.all[-1:] if event.step in ("process", "banned")]
            if not mine:
                self._before = [*self._before[-7:], event]
                return
        for recovery in mine[-1:]:
            recovery.process = recovery.process or event.process
            recovery.pid = recovery.pid or event.pid
            recovery.coredump |= event.step == "coredump"
            recovery.banned |= event.step == "banned"
            if event.step == "escalated":
                recovery.scope, recovery.outcome = "engine", "begun"
            self._note(recovery, event)

    def _end(self, event: GpuEvent) -> None:
        mine = self._of(event)
        if event.scope == "engine" and event.engine:
            mine = [r for r in mine if r.engine in ("", event.engine)]
        if not mine:
            # "GPU reset end with ret = -62" comes after "GPU reset(2) failed" ended it.
            worse = event.step in ("reset-failed", "wedged")
            mine = [r for r in self.all[-1:] if worse and self._same(r, event)]
        if not mine and event.scope:
            mine = [self._start(event)]
        for recovery in mine:
            recovery.scope = event.scope or recovery.scope
            recovery.outcome = event.outcome
            if event.outcome == "failed":
                recovery.why = event.why or recovery.why
            self._note(recovery, event)
        self._close(mine)

    @staticmethod
    def _note(recovery: Recovery, event: GpuEvent) -> None:
        recovery.device = recovery.device or event.device
        if event not in recovery.events:
            recovery.events.append(event)

    def _close(self, closed: list[Recovery]) -> None:
        self._open = [r for r in self._open if r not in closed]

    def _of(self, event: GpuEvent) -> list[Recovery]:
        return [r for r in self._open if self._same(r, event)]

    @staticmethod
    def _same(recovery: Recovery, event: GpuEvent) -> bool:
        devices = {recovery.device, event.device} - {""}
        return recovery.driver == (event.driver or recovery.driver) and len(devices) < 2
