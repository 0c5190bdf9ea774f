"""What `lab dmesg` shows: the reports in a kernel log, those of one bug folded, and GPU recoveries.

Memory is bounded: of reports alike the first is kept, of kinds of reports the first thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgspec
from rich.console import Console
from rich.markup import escape as escape_markup

from harness.kernel import facts, formats, ktap, lockdep, resets
from harness.kernel.cycle import cycle_of
from harness.kernel.diagnosis import diagnose, explain
from harness.kernel.resets import GpuEvent, Recovery
from harness.kernel.scan import Again, Boot, Lost, Scan
from harness.kernel.splats import Splat
from harness.lab.symbolise import Symboliser
from harness.lab.visible import visible

__all__ = [
    "Reading",
    "line",
    "objects",
    "read",
    "show",
    "show_statistics",
    "statistics",
    "subtest",
    "subtests",
]

# Reports that differ, and GPU events, kept of one log; more are only counted.
MOST = 5_000
NO_SYMBOLS = Symboliser(())
# What JSON readers hold: numbers that no kernel wrote may add up to more.
_MOST_LOST = (1 << 63) - 1


def escape(text: str) -> str:
    """A log's text, to be printed as it is."""
    return escape_markup(visible(text))


@dataclass(slots=True)
class Group:
    """Reports of one signature: the first, how many, and where the last stands."""

    splat: Splat
    last: int
    count: int = 1


@dataclass(slots=True)
class Reading:
    """All that was found in one log."""

    groups: dict[str, Group] = field(default_factory=dict)
    events: list[GpuEvent] = field(default_factory=list)
    boots: list[Boot] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    reports: int = 0
    unkept: int = 0
    lost: int = 0
    gpu_events: int = 0
    bytes: int = 0
    lines: int = 0
    numbered: bool = False
    looks_like_log: bool = False

    @property
    def failures(self) -> list[Group]:
        """The groups that are failures, in the order they began."""
        found = [group for group in self.groups.values() if group.splat.severity == "fail"]
        return sorted(found, key=lambda group: group.splat.place)

    @property
    def recoveries(self) -> list[Recovery]:
        """Each GPU hang with what was done about it."""
        return resets.recoveries(self.events)


def read(stream: BinaryIO) -> Reading:
    """Read a log to its end, once.  Raises OSError where it cannot be read, UsageError
    where it is compressed."""
    found = Reading()
    scan = Scan(stream)
    for item in scan:
        if isinstance(item, Splat):
            _fold(found, item)
        elif isinstance(item, Again):
            _fold(found, item.splat, item.times, item.seq)
        elif isinstance(item, GpuEvent):
            found.gpu_events += 1
            if len(found.events) < MOST:
                found.events.append(item)
        elif isinstance(item, Lost):
            found.lost = min(found.lost + item.records, _MOST_LOST)
        elif len(found.boots) < MOST:
            found.boots.append(item)
    found.bytes, found.lines = scan.bytes, scan.lines
    found.numbered, found.looks_like_log = scan.numbered, scan.looks_like_log
    return found


def _fold(found: Reading, splat: Splat, times: int = 1, last: int | None = None) -> None:
    """Count a report that came so many times, the last one with the record `last`."""
    last = splat.records[0].seq if last is None else last
    if splat.severity == "fail":
        found.reports += times
        found.kinds[splat.kind] += times
    group = found.groups.get(splat.signature)
    if group is not None:
        group.count += times
        group.last = max(group.last, last) if times > 1 else last
    elif len(found.groups) < MOST:
        found.groups[splat.signature] = Group(splat, last, times)
    else:
        found.unkept += times


def show(
    found: Reading,
    console: Console,
    whole: bool = False,
    symbols: Symboliser = NO_SYMBOLS,
) -> None:
    """For people.  `whole`: with the text of every report, its frames with their source."""
    for group in found.failures:
        _show_group(group, _counted(found), console, whole, symbols)
    for recovery in found.recoveries:
        first = recovery.events[0]
        device = f"{recovery.driver} {recovery.device}".strip() or "gpu"
        console.print(f"[bold]{escape(recovery.title)}[/]")
        console.print(
            f"  {escape(device)}, {_when(_counted(found), first.seq, first.usec)}", style="dim"
        )
    alike = len(found.failures)
    console.print(
        f"{_many(found.reports, 'report')}, {alike} different; "
        f"{_many(found.gpu_events, 'GPU event')}; {_many(found.lines, 'line')}"
        + (f", {_many(len(found.boots), 'boot')}" if found.boots else "")
        + (f"; [red]{_many(found.lost, 'record')} lost[/]" if found.lost else "")
        + (f"; {found.unkept} more not told apart" if found.unkept else "")
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _counted(found: Reading) -> str:
    """What the numbers count that events carry."""
    return "record" if found.numbered else "line"


def _show_group(
    group: Group, counted: str, console: Console, whole: bool, symbols: Symboliser
) -> None:
    splat = group.splat
    first = splat.records[0]
    times = f"  [yellow]x{group.count}[/]" if group.count > 1 else ""
    console.print(f"[bold red]{escape(splat.kind)}[/] [bold]{escape(splat.title)}[/]{times}")
    known = facts.of(splat.lines)
    where = [_when(counted, first.seq, first.usec), f"signature {splat.signature}"]
    if known.comm:
        where.append(f"{known.comm}:{known.pid}" + _cpu(known))
    if known.kernel:
        where.append(known.kernel)
    if group.count > 1:
        where.append(f"last: {counted} {group.last}")
    console.print(escape("  " + ", ".join(where)), style="dim")
    report = lockdep.parse(splat.lines) if splat.family == "lockdep" else None
    if report is not None and (meaning := explain(report)):
        console.print(escape("\n".join(f"  {line}" for line in meaning.split("\n"))))
    elif not whole and (path := _path(splat)):
        console.print(escape(f"  {path}"))
    for name in symbols.mismatched(splat.lines):
        console.print(f"  [yellow]the symbols of {escape(name)} are of another build[/]")
    if whole:
        told = symbols.annotate(splat.lines)
        console.print(escape("\n".join(f"  | {line}" for line in told)), style="dim")


def _cpu(known: facts.Facts) -> str:
    return "" if known.cpu is None else f" on CPU {known.cpu}"


def _when(counted: str, seq: int, usec: int) -> str:
    # A wall clock's stamp has whole seconds, and tells nothing that the line does not.
    return f"{counted} {seq}" + (f" [{usec / 1e6:.6f}]" if usec % 1_000_000 else "")


def _path(splat: Splat) -> str:
    """The stack's function that the title names, and the callers below it."""
    if not splat.functions:
        return ""
    running: list[str] = []
    for stack in splat.frames:
        names = running + [frame.function for frame in stack if frame.certain]
        # the instruction pointer, then its callers
        running = names if len(stack) == 1 and not running else []
        for name in splat.functions:
            if name in names and not running:
                below = names[names.index(name) :][:6]
                return " < ".join(below) + (" < ..." if len(names) > len(below) else "")
    return ""


def objects(found: Reading, symbols: Symboliser = NO_SYMBOLS) -> Iterator[dict[str, Any]]:
    """For programs: an object for each group of reports and each GPU event."""
    for group in found.failures:
        splat = group.splat
        first, last = splat.records[0], splat.records[-1]
        known = facts.of(splat.lines)
        report = lockdep.parse(splat.lines) if splat.family == "lockdep" else None
        yield {
            "type": "report",
            "kind": splat.kind,
            "title": splat.title,
            "signature": splat.signature,
            "functions": list(splat.functions),
            "count": group.count,
            "first": first.seq,
            "end": last.seq,
            "last": group.last,
            "usec": first.usec,
            "caller": first.caller,
            "cpu": known.cpu,
            "pid": known.pid,
            "comm": known.comm,
            "kernel": known.kernel,
            "explanation": explain(report) if report else "",
            **_locks(report),
            "text": "\n".join(symbols.annotate(splat.lines)),
        }
    for event in found.events:
        yield {"type": "gpu", **{name: getattr(event, name) for name in event.__slots__}}


def _locks(report: lockdep.Report | None) -> dict[str, Any]:
    """Of a lockdep report: the classes of its cycle, and what a fence-signalling section takes."""
    cycle = cycle_of(report) if report else None
    found = diagnose(report) if report else None
    if cycle is None or found is None:
        return {}
    return {
        "cycle": list(cycle.classes),
        "cycle_complete": cycle.complete,
        "takes": found.takes,
        "driver": found.driver,
    }


def subtests(stream: BinaryIO) -> Iterator[ktap.Subtest]:
    """What KUnit and kselftest said in a log.  Raises as read() does."""
    records = formats.read(_plain(stream))
    return ktap.parse(line for record in records if not record.facility for line in record.lines())


def _plain(stream: BinaryIO) -> Iterator[bytes]:
    for number, text in enumerate(stream):
        if not number:
            formats.refuse_packed(text)
        yield text


def subtest(test: ktap.Subtest) -> dict[str, Any]:
    """For programs: a result."""
    return {
        "type": "subtest",
        "name": test.name,
        "outcome": test.outcome,
        "why": test.why,
        "said": list(test.said),
    }


def statistics(found: Reading) -> dict[str, Any]:
    """Figures of the whole log."""
    return {
        "type": "stats",
        "bytes": found.bytes,
        "lines": found.lines,
        "boots": [boot.release for boot in found.boots],
        "lost": found.lost,
        "reports": found.reports,
        "different": len(found.failures),
        "not_told_apart": found.unkept,
        "gpu_events": found.gpu_events,
        "kinds": dict(found.kinds.most_common()),
    }


def show_statistics(found: Reading, console: Console) -> None:
    """The figures for people."""
    for name, value in statistics(found).items():
        if name == "kinds":
            for kind, count in value.items():
                console.print(f"  {kind:24} {count:>10}")
        elif name == "boots":
            console.print(escape(f"{name:16} {len(value)}  {', '.join(value[:5])}"))
        elif name != "type":
            console.print(f"{name:16} {value}")


def line(value: dict[str, Any]) -> str:
    """As one line of JSON."""
    return msgspec.json.encode(value).decode()
