"""A finding as one would write it to dri-devel: plain text, 72 columns, the log as it came.

From the run directory alone; since when it is there, where the history knows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.evidence.finding import Finding
from harness.evidence.rundir import attempt_of
from harness.kernel import lockdep, resets
from harness.kernel.cycle import boot_primed, cycle_of, path
from harness.lab.casefile import Case, kernel_of
from harness.lab.history import History
from harness.lab.redact import Redactor

__all__ = ["COLUMNS", "Since", "compose", "since_of"]

COLUMNS = 72
LIST = "dri-devel@lists.freedesktop.org"
# Of one report, in lines; a longer one belongs into the attachment.
LONGEST = 400
# Milestones of recoveries shown; a storm has thousands.
EVENTS = 24


@dataclass(frozen=True, slots=True)
class Since:
    """What the history knows of a finding.  `good` is the kernel under which the same test last
    ended without it on the same target, `bad` the first with it; `seen` of `runs`."""

    first: datetime | None = None
    last: datetime | None = None
    good: str = ""
    bad: str = ""
    seen: int = 0
    runs: int = 0
    targets: tuple[str, ...] = ()


def compose(
    case: Case,
    finding: Finding,
    since: Since | None = None,
    redactor: Redactor | None = None,
    addresses: Iterable[str] = (LIST,),
) -> str:
    """The mail: headers, an empty line, the body, an end of line; all but the list's addresses
    without what `redactor` takes out."""
    redactor = redactor or Redactor()
    title = redactor.text(_one_line(finding.title))
    lines = [
        *_folded("To", ", ".join(addresses)),
        *_folded("Subject", f"[BUG] {case.driver or 'drm'}: {title}"),
        "Content-Type: text/plain; charset=utf-8",
        "",
        *redactor.lines(_body(case, finding, since)),
    ]
    return "\n".join(_printable(line).rstrip() for line in lines) + "\n"


def since_of(history: History, case: Case, signature: str) -> Since | None:
    """What `history` knows of a finding; None where it never saw it."""
    seen = history.sightings([signature])
    if not seen:
        return None
    (sighting,) = seen
    test, _ = attempt_of(case.test)
    results = [r for r in history.results(test=test, target=case.target) if r.judged]
    hit = [result for result in results if signature in result.signatures]
    first = hit[0].started if hit else sighting.first
    good = [r for r in results if r.started < first and r.outcome == "pass"]
    return Since(
        first=datetime.fromtimestamp(sighting.first, UTC),
        last=datetime.fromtimestamp(sighting.last, UTC),
        good=good[-1].kernel if good else "",
        bad=sighting.first_kernel,
        seen=len(hit),
        runs=len(results),
        targets=sighting.targets,
    )


def _body(case: Case, finding: Finding, since: Since | None) -> Iterator[str]:
    kernel = kernel_of(case.facts)
    outcome = "kills the machine" if case.verdict.outcome == "incomplete" else "fails"
    yield from _prose(f"{case.test} {outcome} on {kernel.release or 'an unknown kernel'} with")
    yield ""
    yield from _prose(_one_line(finding.title), "    ")
    yield from _explained(finding)
    yield from _facts(case, since, finding)
    yield from _section("How to reproduce", _command(case.rerun))
    yield from _recovery(case)
    if finding.text:
        lines = _report(finding)
        yield from _section("What the kernel printed" if _is_log(finding) else "Evidence", lines)
    others = [other for other in case.failing if other.signature != finding.signature]
    if others:
        listed = [line for o in others for line in _item(f"{o.kind}: {_one_line(o.title)}")]
        yield from _section("Found in the same test", listed)
    yield ""
    yield f"signature: {finding.signature} ({finding.kind})"
    yield f"evidence:  {case.run.path.name}"
    yield f"           tests/{case.directory.name}"


def _explained(finding: Finding) -> Iterator[str]:
    """What the harness makes of it: the paragraphs, then the cycle with the path of each lock."""
    report = lockdep.parse(finding.text.split("\n")) if finding.explanation else None
    cycle = cycle_of(report) if report else None
    for part in finding.explanation.split("\n\n"):
        if "\n" not in part:
            if part:
                yield ""
                yield from _prose(part)
        elif cycle is None:
            yield ""
            yield from part.split("\n")
    if cycle is None:
        return
    first, *others = cycle.starting_with("dma_fence_map").turns
    yield from ("", "The lock cycle:", "", f"    {first.lock.label}")
    for turn in (*others, first):
        yield f" -> {turn.lock.label}{' (this report)' if turn.now else ''}"
        how = "in an interrupt: " if turn.interrupt else ""
        primed = boot_primed(turn.frames)
        names = "boot priming (dma_resv_lockdep)" if primed else " > ".join(path(turn.frames))
        yield from _prose(how + names, "        ") if names else ()


def _facts(case: Case, since: Since | None, finding: Finding) -> Iterator[str]:
    kernel = kernel_of(case.facts)
    machine = case.facts.get("machine", {}).get("kind", "")
    rows = [
        ("kernel", f"{kernel.release} {kernel.version}".strip()),
        ("patches", ", ".join(kernel.patches)),
        ("config", f"sha256 {kernel.config_hash[:16]}" if kernel.config_hash else ""),
        ("cmdline", kernel.cmdline),
        *(("GPU", gpu) for gpu in case.gpus),
        ("machine", machine),
        ("lockdep", case.verdict.lockdep),
        *(_since(since, finding) if since else ()),
    ]
    yield from ("", "Where", "-----")
    for name, value in rows:
        if value:
            yield from _wrap(value, f"{name:9} ", " " * 10)


def _since(since: Since, finding: Finding) -> Iterator[tuple[str, str]]:
    if since.first:
        yield "first", f"{since.first:%Y-%m-%d %H:%M} UTC{f', {since.bad}' if since.bad else ''}"
    if since.last and since.last != since.first:
        yield "last", f"{since.last:%Y-%m-%d %H:%M} UTC"
    if since.good:
        yield "last good", since.good
    if since.runs:
        yield "seen", f"in {since.seen} of {since.runs} results of this test on this target"
    if since.targets:
        yield "targets", ", ".join(since.targets)


def _recovery(case: Case) -> Iterator[str]:
    """What recovery did, as the driver said it, by the log's own clock."""
    events = resets.find(case.log())
    if not events:
        return
    start = events[0].usec
    lines = [
        f"    {(event.usec - start) / 1e6:+10.6f} s  {event.step}"
        f"{f' on {event.engine}' if event.engine else ''}"
        f"{f', {event.scope}' if event.scope else ''}{f' ({event.why})' if event.why else ''}"
        for event in events[:EVENTS]
    ]
    if len(events) > EVENTS:
        lines.append(f"    and {len(events) - EVENTS} more")
    yield from _section("What recovery did", lines)


def _report(finding: Finding) -> list[str]:
    """The text as it came: a log that is wrapped cannot be searched, nor read by a program."""
    lines = finding.text.split("\n")
    left = len(lines) - LONGEST
    if left > 0:
        lines = [*lines[:LONGEST], f"[{left} more lines: see the attachment]"]
    return lines


def _command(command: str) -> list[str]:
    """As it can be pasted into a shell, on two lines where it is long."""
    start, _, option = command.rpartition(" ")
    if len(command) + 4 <= COLUMNS or not start:
        return [f"    {command}"]
    return [f"    {start} \\", f"        {option}"]


def _is_log(finding: Finding) -> bool:
    return finding.place is not None


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", title, "-" * len(title))
    yield from lines


def _item(text: str) -> Iterator[str]:
    yield from _wrap(text, "  - ", "    ")


def _prose(text: str, indent: str = "") -> Iterator[str]:
    yield from _wrap(text, indent, indent)


def _wrap(text: str, first: str, other: str) -> Iterator[str]:
    """Wrapped; what has no blank to break at stays whole, as a path or a test's id must."""
    yield from textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=other,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def _folded(name: str, value: str) -> Iterator[str]:
    """A header, folded as RFC 5322 (2.2.3) folds."""
    yield from _wrap(value, f"{name}: ", " ")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _printable(line: str) -> str:
    """Without what a terminal or a mail program would act upon."""
    return "".join(c if c == "\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in line)
