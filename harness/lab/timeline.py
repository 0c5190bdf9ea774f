"""One test as it went: the steps of its hang and recovery, and its log with the reports marked.

From the files of its run.  Time is the kernel log's own, from the test's first record on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.evidence import jobs
from harness.evidence.finding import Finding
from harness.evidence.packed import plain
from harness.kernel import merge, resets, uevents
from harness.kernel.records import Record, gaps, parse, parse_console
from harness.lab.bootlog import letters
from harness.lab.casefile import Case
from harness.lastwords import kept

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
    """One line of the log: `time` as printed, `source` where that is not kmsg alone.  `mark` is
    report, gpu, gap or "", `first` the signature of the finding that begins here; `left_out` is how
    many lines stand before this one and are not shown."""

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
    each GPU event marked; of a machine that died, to its last word, and with who heard each line
    (the letters of `lab log`)."""
    died = case.window is not None and bool(case.window.died)
    # Of a healthy test kmsg has all there is.
    others = _others(case) if died or gaps(records) else {}
    marks = _Marks(case.verdict.findings, records, others)
    lines: list[Line] = []
    before: int | None = None
    for entry in _merged(case, records, others):
        if isinstance(entry, str):
            lines.append(Line("", entry, mark="gap"))
            continue
        begins = entry.seq is None or entry.seq != before
        before = entry.seq
        mark, first = marks.of(entry, begins=begins)
        heard = letters(entry.sources) if died else ", ".join(entry.sources)
        lines.append(
            Line(
                f"{entry.usec // 1_000_000:5d}.{entry.usec % 1_000_000:06d}" if begins else "",
                entry.text,
                mark,
                first,
                f"r{entry.seq}" if begins and mark and entry.seq is not None else "",
                source=heard if died or "kmsg" not in entry.sources else "",
            )
        )
    return list(_shown(lines))


def _others(case: Case) -> dict[str, list[Record]]:
    """What else than kmsg heard the boot, by the names that findings have for it."""
    found: dict[str, list[Record]] = {}
    if case.window is None:
        return found
    boot = case.run.path / f"boot-{case.window.boot_id}"
    for name, reader in _OTHERS.items():
        if (path := plain(boot / name)).exists() and path.stat().st_size <= LARGEST:
            with path.open("rb") as stream:  # whose lines are numbered as findings number them
                found[name] = list(reader(stream))
    return found | dict(kept(boot))


def _merged(
    case: Case, records: list[Record], others: Mapping[str, list[Record]]
) -> Iterator[merge.Line | str]:
    """What kmsg has of the test, and what only others have of the same time; of a machine that
    died, to the end.  What is missing, in words."""
    window = case.window
    if window is None or not (records or (window.died and others)):
        return
    # Of a test from which no record came, all that came after the boot's last one.
    known = records or list(_tail(case))
    start = records[0].usec if records else known[-1].usec + 1 if known else 0
    end = known[-1].usec if known else 0
    ended = False
    for entry in merge.merge(known, others).lines:
        if isinstance(entry, merge.Gap):
            if records:
                yield _missing(entry)
        elif start <= entry.usec and (window.died or entry.usec <= end):
            if "kmsg" not in entry.sources and entry.usec > end and not ended:
                ended = True
                yield "kmsg ends here: what follows reached us on other ways only"
            yield entry


def _missing(gap: merge.Gap) -> str:
    text = f"records {gap.first} to {gap.last} never reached kmsg"
    return f"{text}; known from elsewhere: {gap.known}" if gap.known else text


def _tail(case: Case) -> Iterator[Record]:
    """The boot's kmsg, or what of its end is looked at."""
    assert case.window is not None
    path = plain(case.run.path / f"boot-{case.window.boot_id}" / "kmsg")
    if path.exists():
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LARGEST))
            yield from parse(stream)


class _Marks:
    """What findings and GPU events say of lines: of kmsg's by record, of others' by what is there,
    since a merged line has no number there."""

    def __init__(
        self,
        findings: Iterable[Finding],
        records: Iterable[Record],
        others: Mapping[str, list[Record]],
    ) -> None:
        self._events = {event.seq for event in resets.find(records)}
        self._kmsg: dict[int, str] = {}
        self._elsewhere: dict[tuple[int, str], str] = {}
        for finding in findings:
            place = finding.place
            if finding.severity == "note" or place is None:
                continue
            last = min(place.last, place.first + 20_000)
            if place.stream == "kmsg":
                for seq in range(place.first, last + 1):
                    self._kmsg.setdefault(seq, "")
                self._kmsg[place.first] = finding.signature
            for record in others.get(place.stream, ()):
                if place.first <= record.seq <= last:
                    signature = finding.signature if record.seq == place.first else ""
                    for text in record.lines():
                        key = record.usec, text.rstrip()
                        self._elsewhere[key] = self._elsewhere.get(key) or signature
                        signature = ""

    def of(self, line: merge.Line, *, begins: bool) -> tuple[str, str]:
        """(report, gpu or "", the signature of the finding that begins there or "")."""
        key = line.usec, line.text
        if line.seq in self._kmsg:
            return "report", self._kmsg[line.seq] if begins else ""
        if key in self._elsewhere:
            return "report", self._elsewhere[key]
        return ("gpu" if line.seq in self._events else ""), ""


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
