"""Findings -> verdict: what one test proved, from the files of its run and the known issues.

A pure function of both, so `lab replay` judges last month's night with today's
parser.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from harness import coverage
from harness.account import Account, Accounted, draw, durations, open_account
from harness.errors import LabError
from harness.evidence.files import read_json, write_bytes, write_json
from harness.evidence.finding import Finding, Place, Severity, signature
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir, Window
from harness.kernel import commits, lockdep, modtests, picture, records, resets, splats, uevents
from harness.kernel import selftests as module_tests
from harness.kernel.cycle import cycle_of
from harness.kernel.diagnosis import explain
from harness.known import KnownIssues, Scope
from harness.lastwords import last_words
from harness.masking import masker

log = logging.getLogger(__name__)

__all__ = ["Outcome", "Verdict", "cycle_picture", "judge", "recorded", "rejudge", "slice_of"]

Outcome = Literal["pass", "fail", "skip", "xfail", "incomplete", "blind", "error"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "skip", "xfail", "incomplete", "blind", "error")

# Text of one finding kept in findings.json, in characters; the whole stands in the stream.  The
# longest lock chains with their stacks fit.
EXCERPT = 60_000


# How a reset ends, as far as the display is concerned.
ENDS = ("reset-done", "reset-failed", "wedged")
# As many lines of one sort from one test are a fault of their own: they bury all others.
FLOOD = 5_000


class Verdict(Struct, frozen=True):
    """How a test ended.  `lockdep` says whether it was armed throughout, `fences` whether
    every fence that it saw is accounted for; `known` names the issues that excuse what failed,
    `fixed` those that say it fails, which it did not; `times` how long recovery took, in s;
    `masked` the issue that had left the boot blind before it."""

    test: str
    outcome: Outcome
    reason: str
    lockdep: Literal["armed", "blind", "went off"]
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    fences: Accounted = "none"
    known: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    times: dict[str, float] = {}
    masked: str = ""


# Nothing is known of.
NONE = KnownIssues()


def judge(run: RunDir, window: Window, known: KnownIssues = NONE) -> Verdict:
    """Judge one test from its window and the streams it points into."""
    return _judge(run, window, open_account(run, window), known)


def _judge(run: RunDir, window: Window, account: Account, known: KnownIssues) -> Verdict:
    kmsg = list(slice_of(run.path, window))
    findings = [
        *_reports(window, kmsg, "kmsg"),
        *_dying(run.path, window, kmsg),
        *_recovery(window, kmsg),
        *_display(run, window, kmsg, any(map(_deadlock, account.findings))),
        *_selftests(window, kmsg),
        *_flood(window, kmsg),
        *_losses(window, kmsg),
        *coverage.notes(run, window, resets.find(kmsg), account.recovered),
        *account.findings,
        *(
            Finding("lab", "note", remark, signature("lab", splats.steady(remark)))
            for remark in window.remarks
        ),
    ]
    armed = _lockdep_state(window)
    reported = any(f.kind == "lockdep" and f.severity == "fail" for f in findings)
    if armed == "went off" and not reported:
        findings.append(_finding("lockdep-off", "unknown", "lockdep went off without a report"))
    findings = _folded(findings)
    if window.trouble:
        # A GPU that is taken from under it makes any kernel complain: none of that is its fault.
        findings = [msgspec.structs.replace(finding, severity="note") for finding in findings]
    scope = _scope(run, window, known)
    outcome, reason, excused = _weigh(window, findings, armed, scope)
    masked = masker(run, window.boot_id, window.test) if outcome == "blind" else ("", "")
    if masked[0]:
        reason = f"masked by {masked[0]}: lockdep went off in {masked[1]}"
    fixed = scope.fixed() if outcome == "pass" else []
    if fixed and not reason:
        reason = f"known issue {', '.join(fixed)} did not show: is it fixed?"
    return Verdict(
        test=window.test,
        outcome=outcome,
        reason=reason,
        known=tuple(excused),
        fixed=tuple(fixed),
        masked=masked[0],
        lockdep=armed,
        findings=tuple(findings),
        seconds=window.seconds,
        fences=account.state,
        times=durations(run, window, account),
    )


def rejudge(run: RunDir, known: KnownIssues = NONE) -> Iterator[Verdict]:
    """Judge every test of a run anew, writing findings.json and verdict.json.

    A test that never ended, because the harness was killed in it, is incomplete.
    """
    for test in run.tests():
        path = run.test(test) / "window.json"
        if path.exists():
            window = msgspec.convert(read_json(path), Window)
        else:
            # Killed between the journal's line and the window's opening.
            window = Window(test=test, boot_id="", first_seq=0, offset=0)
        if not window.body:
            window.died = window.died or "the harness ended during this test"
        yield record(run, window, known)


def record(
    run: RunDir, window: Window, known: KnownIssues = NONE, before: Verdict | None = None
) -> Verdict:
    """Judge, and keep the answer beside the evidence, unless it is still the one of `before`."""
    account = open_account(run, window)
    verdict = _judge(run, window, account, known)
    if verdict == before:
        return verdict
    path = run.test(window.test)
    write_json(path / "findings.json", verdict.findings, derived=True)
    write_json(path / "verdict.json", verdict, derived=True)
    try:
        draw(account, path, window.test)
        _draw_cycles(verdict, path)
    except LabError as error:  # a picture must not cost a verdict
        log.warning("no picture: %s", error)
    return verdict


def cycle_picture(finding: Finding) -> str:
    """The name of the file, beside the verdict, that shows the lock cycle of a finding."""
    return f"cycle-{finding.signature}.svg"


def _draw_cycles(verdict: Verdict, directory: Path) -> None:
    for finding in verdict.findings:
        report = lockdep.parse(finding.text.split("\n")) if finding.explanation else None
        if report and (cycle := cycle_of(report)):
            drawn = picture.render(cycle, finding.title)
            write_bytes(directory / cycle_picture(finding), drawn.encode(), derived=True)


def recorded(run: RunDir) -> dict[str, Verdict]:
    """The verdicts on disk, by test; a test without one is left out, as is one that this host's
    power cut has left torn."""
    known = {}
    for test in run.tests():
        try:
            told = msgspec.json.decode((run.test(test) / "verdict.json").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        known[test] = msgspec.convert(told, Verdict)
    return known


def slice_of(run: Path, window: Window) -> Iterator[records.Record]:
    """The kernel log of a window, from its first record to its last (or the stream's end)."""
    path = plain(run / f"boot-{window.boot_id}" / "kmsg")
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(window.offset)
        wanted = window.first_seq
        for entry in records.parse(stream):
            # A link that came back reads the log from its start again: pass over what we have.
            if entry.seq < wanted:
                continue
            if window.last_seq is not None and entry.seq > window.last_seq:
                return
            wanted = entry.seq + 1
            yield entry


def _folded(findings: list[Finding]) -> list[Finding]:
    """What is found again and again in one test is one finding, in its first place: a hung task
    is reported at every check."""
    again = Counter((finding.signature, finding.severity) for finding in findings)
    first: dict[tuple[str, Severity], Finding] = {}
    for finding in findings:
        first.setdefault((finding.signature, finding.severity), finding)
    return [
        finding
        if again[key] == 1
        else msgspec.structs.replace(
            finding, text=f"{finding.text}\n({again[key]} times in this test)".lstrip()
        )
        for key, finding in first.items()
    ]


def _finding(
    kind: str, severity: Severity, title: str, place: Place | None = None, text: str = ""
) -> Finding:
    return Finding(kind, severity, title, signature(kind, title), place, text[:EXCERPT])


def _dying(run: Path, window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    """What a dying kernel reported elsewhere than in its log."""
    if window.died and kmsg:
        stream, words = last_words(run / f"boot-{window.boot_id}", kmsg[-1].usec)
        yield from _reports(window, words, stream)


def _reports(window: Window, log: Iterable[records.Record], stream: str) -> Iterator[Finding]:
    for splat in splats.find(log):
        if splat.family == "flip_timeout":
            continue  # what it means depends on the reset before it: _display
        place = Place(window.boot_id, stream, splat.records[0].seq, splat.records[-1].seq)
        severity: Severity = "fail" if splat.severity == "fail" else "note"
        report = lockdep.parse(splat.lines)
        yield Finding(
            splat.family,
            severity,
            splat.title,
            splat.signature,
            place,
            splat.text[:EXCERPT],
            explain(report) if report else "",
        )


def _recovery(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    """GPU events; a failed reset is a failure, and so is one in a test that asked for none."""
    whole = resets.recoveries(resets.trail(kmsg))
    for event in resets.find(kmsg):
        title = f"{event.step} on {event.engine}" if event.engine else event.step
        broken = event.step in ("reset-failed", "wedged")
        if not broken and not window.destructive:
            title += " in a test that hangs nothing"
        place = Place(window.boot_id, "kmsg", event.seq, event.seq)
        severity: Severity = "fail" if broken or not window.destructive else "note"
        finding = _finding("recovery", severity, title, place, event.text)
        told = next((recovery.title for recovery in whole if event in recovery.events), "")
        if told and severity == "fail":
            # whose job it was is no part of the identity
            finding = msgspec.structs.replace(finding, title=f"{title}: {told}")
        yield finding


def _display(
    run: RunDir, window: Window, kmsg: list[records.Record], deadlocked: bool
) -> Iterator[Finding]:
    """Commits that were never done.  A test says itself whether it lost a flip; but after a reset,
    a failed one too, the GPU is to show pictures again, unless a deadlock is why it does not."""
    timeouts = commits.find(kmsg)
    resets_ended = _ends(run, window, kmsg) if timeouts else []
    usec = {record.seq: record.usec for record in kmsg}
    for timeout in timeouts:
        place = Place(window.boot_id, "kmsg", timeout.seq, timeout.seq)
        before = [step for when, step in resets_ended if when <= usec[timeout.seq]]
        severity: Severity = "fail"
        if before and before[-1] != "reset-done":
            title = f"after a failed reset a commit is never done: {timeout.step} timed out"
        elif before and not deadlocked:
            title = f"after a reset a commit is never done: {timeout.step} timed out"
        else:
            severity = "note"
            title = f"a commit was not done in time: {timeout.step} timed out"
        yield _finding("commit-timeout", severity, title, place, timeout.text)


def _deadlock(finding: Finding) -> bool:
    return finding.kind == "deadlock" and finding.severity == "fail"


def _ends(run: RunDir, window: Window, kmsg: list[records.Record]) -> list[tuple[int, str]]:
    """When each reset ended, and how, in order; in usec of the log's clock."""
    ended = [(event.usec, event.step) for event in resets.find(kmsg) if event.step in ENDS]
    path = plain(run.path / f"boot-{window.boot_id}" / "uevents.jsonl")
    if window.mono and kmsg[0].seq == window.first_seq and path.exists():
        # The first record is the mark that was made at `mono`: it ties the two clocks together.
        ahead = window.mono // 1000 - kmsg[0].usec
        with path.open("rb") as told:
            for event in uevents.find(told, window.mono, _device(run.facts())):
                ended.append((event.usec - ahead, event.step))
    return sorted(ended)


def _device(facts: dict[str, Any]) -> str:
    """The card under test by its PCI address, else its name; "" where that is not known."""
    target = facts.get("target", {})
    wanted = [
        card
        for card in facts.get("cards", [])
        if card["driver"] == target.get("driver") and target.get("pci") in (None, card["pci"])
    ]
    return (wanted[0]["pci"] or wanted[0]["name"]) if len(wanted) == 1 else ""


def _selftests(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    """What the kernel's own tests say of it."""
    for run in module_tests.find(kmsg):
        for failed in run.failed:
            error = errno.errorcode.get(-failed.error, str(failed.error))
            title = f"{run.kind} selftest {run.group}/{failed.name} fails with {error}"
            place = Place(window.boot_id, "kmsg", failed.seq, failed.seq)
            yield _finding("selftest", "fail", title, place, f"st_random_seed={run.seed}")
    for test in modtests.find(kmsg):
        if test.outcome in ("fail", "missing"):
            place = Place(window.boot_id, "kmsg", test.seq, test.seq)
            yield _finding("selftest", "fail", test.title, place, test.why)


def _flood(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    if len(kmsg) <= FLOOD:
        return
    sorts = Counter(splats.steady(record.text) for record in kmsg if not record.facility)
    (most, count), *_ = sorts.most_common(1)
    if count > FLOOD:
        place = Place(window.boot_id, "kmsg", kmsg[0].seq, kmsg[-1].seq)
        yield _finding("log-flood", "fail", f"the log is flooded with: {most}", place)


def _losses(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    for first, last in records.gaps(kmsg):
        place = Place(window.boot_id, "kmsg", first, last)
        yield _finding("log-lost", "unknown", "kernel log records were lost", place)
    if window.last_seq is not None and (not kmsg or kmsg[-1].seq < window.last_seq):
        yield _finding("log-lost", "unknown", "the kernel log ends before the test did")


def _lockdep_state(window: Window) -> Literal["armed", "blind", "went off"]:
    before = window.health_before.get("debug_locks")
    after = window.health_after.get("debug_locks")
    if before != 1:
        return "blind"
    return "went off" if after == 0 else "armed"


def _scope(run: RunDir, window: Window, known: KnownIssues) -> Scope:
    """The issues that concern this test, by what its run says of target and kernel."""
    facts = run.facts() if known.issues else {}
    target = facts.get("target", {})
    return known.scope(
        test=window.test,
        target=target.get("name", ""),
        driver=target.get("driver", ""),
        kernel=facts.get("kernel", {}).get("uname", {}).get("release", ""),
    )


def _weigh(
    window: Window, findings: list[Finding], armed: str, scope: Scope
) -> tuple[Outcome, str, list[str]]:
    """The one place where outcomes are ranked: a lab that broke under the target proves
    nothing; else the kernel's evidence first, then the lab's troubles, then what the test said,
    then what could not be seen, then what is known.

    The third is the issues that excuse something.
    """
    broken = [f for f in findings if f.severity == "fail"]
    excuses = [scope.of(f, findings) for f in broken]
    failing = [f for f, name in zip(broken, excuses, strict=True) if not name]
    known = list(dict.fromkeys(name for name in excuses if name and scope.counts(name)))
    unknown = [f for f in findings if f.severity == "unknown"]
    if window.trouble:
        return "error", window.trouble, known
    if window.died:
        seen = f"; last finding: {failing[-1].title}" if failing else ""
        return "incomplete", window.died + seen, known
    if failing:
        more = f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""
        expired = scope.expired(failing)
        return "fail", failing[0].title + more + (f" ({expired})" if expired else ""), known
    if window.lab_error:
        return "error", window.lab_error, known
    if window.body == "failed":
        text = window.body_text.strip().splitlines()[0] if window.body_text else "failed"
        excuse = scope.of_body(text, findings)
        if not excuse:
            expired = scope.expired_body(text)
            return "fail", text + (f" ({expired})" if expired else ""), known
        known = list(dict.fromkeys([*known, excuse]))
    elif window.body in ("skipped", "xfailed") and not known:
        return ("skip" if window.body == "skipped" else "xfail"), window.body_text, known
    if unknown:
        return "error", f"evidence is missing: {unknown[0].title}", known
    if known:
        told = "; ".join(f"known issue {name}: {scope.title(name)}" for name in known)
        # lockdep stops at its first report, a known one too.
        masked = "; lockdep went off: what came after it is masked" if armed == "went off" else ""
        return "xfail", told + masked, known
    if armed == "blind":
        return "blind", "lockdep was off: nothing it would have found could be seen", known
    return "pass", "", known
