"""One test as it went: the steps of its hang and recovery, and its log with the reports marked.

From the files of its run.  Time is the kernel log's own, from the test's first record on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from harness.evidence import jobs
from harness.evidence.finding import Finding
from harness.evidence.packed import plain
from harness.kernel import merge, resets, uevents
from harness.kernel.records import Record, gaps, parse_console
from harness.lab.casefile import Case

__all__ = ["Line", "Step", "log_of", "steps_of"]

# Lines of a log shown about what is marked, and at either end; the whole lies in the evidence.
AROUND, ENDS = 60, 250
# Of a console that is looked through for what kmsg has not, in bytes.
LARGEST = 8 << 20
_OTHERS = {"console.log": parse_console, "netconsole.log": merge.read_netconsole}
# Steps of one test shown; a storm has thousands.
STEPS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """`at` seconds from the test's start.  `sort`: job, gpu or report; `anchor` is the line of the
    log that tells it, or ""."""

    at: float
    sort: str
    what: str
    detail: str = ""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log: `time` as printed, `source` where that is not kmsg.  `mark` is report,
    gpu, gap or "", `first` the signature of the finding that begins here; `left_out` is how many
    lines stand before this one and are not shown."""

    time: str
    text: str
    mark: str = ""
    first: str = ""
    anchor: str = ""
    source: str = ""
    left_out: int = 0


def steps_of(case: Case, records: list[Record]) -> list[Step]:
    """In order of time, at most STEPS."""
    if not records or case.window is None:
        return []
    start = records[0].usec
    steps = [*_jobs(case), *_gpu(case, records, start), *_reports(case, records, start)]
    return sorted(steps, key=lambda step: step.at)[:STEPS]


def _gpu(case: Case, records: list[Record], start: int) -> Iterator[Step]:
    for event in resets.find(records):
        parts = (event.engine, event.scope, event.process, event.why)
        detail = ", ".join(part for part in parts if part)
        yield Step((event.usec - start) / 1e6, "gpu", event.step, detail, f"r{event.seq}")
    window = case.window
    assert window is not None
    path = plain(case.run.path / f"boot-{window.boot_id}" / "uevents.jsonl")
    begun = _start(case)
    if begun and path.exists():
        with path.open("rb") as lines:
            for event in uevents.find(lines, begun, ""):
                at = (event.usec - begun // 1000) / 1e6
                # The stream goes on after the test.
                if at <= (records[-1].usec - start) / 1e6:
                    yield Step(at, "gpu", event.step, "uevent")


def _reports(case: Case, records: list[Record], start: int) -> Iterator[Step]:
    usec = {record.seq: record.usec for record in records}
    for finding in case.verdict.findings:
        place = finding.place
        if finding.kind != "recovery" and place and place.first in usec:
            at = (usec[place.first] - start) / 1e6
            yield Step(at, "report", finding.kind, finding.title, f"r{place.first}")


def _start(case: Case) -> int:
    """When the window opened, CLOCK_MONOTONIC of the target in ns; 0 where nothing says so."""
    return (case.window.mono or case.window.trace_first or 0) if case.window else 0


def _jobs(case: Case) -> Iterator[Step]:
    start = _start(case)
    if not start:
        return
    for job in jobs.read(case.directory / "jobs.jsonl"):
        name = f"{job.kind} on {job.engine}"
        detail = f"{job.recipe}, " if job.recipe else ""
        at = (job.submitted_ns - start) / 1e9
        yield Step(at, "job", f"{name} submitted", f"{detail}client {job.client}")
        if job.signaled and job.timestamp_ns:
            lasted = (job.timestamp_ns - job.submitted_ns) / 1e9
            told = errno.errorcode.get(-(job.error or 0), str(job.error)) if job.error else "0"
            ended = (job.timestamp_ns - start) / 1e9
            yield Step(ended, "job", f"{name} signalled", f"error {told}, after {lasted:.3f} s")
        elif job.released_ns:
            ended = (job.released_ns - start) / 1e9
            yield Step(ended, "job", f"{name} released", "ended by the CPU: it never signalled")


def log_of(case: Case, records: list[Record]) -> list[Line]:
    """The kernel log of the test out of all streams that carried a part of it, each report and
    each GPU event marked."""
    marks = _marks(case.verdict.findings)
    told = {event.seq for event in resets.find(records)}
    lines: list[Line] = []
    before: int | None = None
    for entry in _merged(case, records):
        if isinstance(entry, merge.Gap):
            text = f"records {entry.first} to {entry.last} never reached kmsg"
            lines.append(Line("", text, mark="gap"))
            continue
        begins = entry.seq is None or entry.seq != before
        before = entry.seq
        seq = -1 if entry.seq is None else entry.seq
        mark = "report" if seq in marks else "gpu" if seq in told else ""
        lines.append(
            Line(
                f"{entry.usec // 1_000_000:5d}.{entry.usec % 1_000_000:06d}" if begins else "",
                entry.text,
                mark,
                marks.get(seq, "") if begins else "",
                f"r{seq}" if begins and mark else "",
                source="" if "kmsg" in entry.sources else ", ".join(entry.sources),
            )
        )
    return list(_shown(lines))


def _merged(case: Case, records: list[Record]) -> Iterator[merge.Line | merge.Gap]:
    """What kmsg has of the test, and what only others have of the same time; of a machine that
    died, to the end."""
    window = case.window
    if window is None or not records:
        return
    boot = case.run.path / f"boot-{window.boot_id}"
    start, end = records[0].usec, records[-1].usec
    others = {}
    # Of a healthy test kmsg has all there is.
    whole = not window.died and not gaps(records)
    for name, reader in () if whole else _OTHERS.items():
        if (path := plain(boot / name)).exists() and path.stat().st_size <= LARGEST:
            read = reader(path.read_bytes().splitlines(keepends=True))
            others[name] = [record for record in read if record.usec >= start]
    for entry in merge.merge(records, others).lines:
        outside = isinstance(entry, merge.Line) and not (
            start <= entry.usec and (window.died or entry.usec <= end)
        )
        if not outside:
            yield entry


def _marks(findings: Iterable[Finding]) -> dict[int, str]:
    """By the record's number: the signature of the finding that begins there, "" within one."""
    marks: dict[int, str] = {}
    for finding in findings:
        place = finding.place
        if finding.severity == "note" or place is None or place.stream != "kmsg":
            continue
        for seq in range(place.first, min(place.last, place.first + 20_000) + 1):
            marks.setdefault(seq, "")
        marks[place.first] = finding.signature
    return marks


def _shown(lines: list[Line]) -> Iterator[Line]:
    """The lines near either end or near what is marked, each with what was left out before it."""
    keep = {n for n, line in enumerate(lines) if line.mark}
    near = {m for n in keep for m in range(n - AROUND, n + AROUND + 1)}
    left_out = 0
    for number, line in enumerate(lines):
        if number in near or number < ENDS or number >= len(lines) - ENDS:
            yield replace(line, left_out=left_out) if left_out else line
            left_out = 0
        else:
            left_out += 1
