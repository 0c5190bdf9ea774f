"""Findings: what a test's kernel log holds that counts for or against it.

Reports, resets, commits that are never done, the kernel's own tests, floods and losses; each
with its place in the evidence.  From files alone; what they weigh is said in verdict.py.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.evidence.finding import Finding, Place, Severity, signature
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir, Window
from harness.kernel import commits, lockdep, modtests, records, resets, splats, uevents
from harness.kernel import selftests as module_tests
from harness.kernel.diagnosis import explain
from harness.lastwords import last_words

__all__ = ["FLOOD", "finding", "folded", "of_log"]

# Text of one finding kept in findings.json, in characters; the whole stands in the stream.  The
# longest lock chains with their stacks fit.
EXCERPT = 60_000
# How a reset ends, as far as the display is concerned.
ENDS = ("reset-done", "reset-failed", "wedged")
# As many lines of one sort from one test are a fault of their own: they bury all others.
FLOOD = 5_000


def of_log(
    run: RunDir, window: Window, kmsg: list[records.Record], *, deadlocked: bool
) -> Iterator[Finding]:
    """What `kmsg`, the log of `window`, holds, and what a dying kernel said elsewhere;
    `deadlocked`: a deadlock was found that explains a display which does not come back."""
    yield from _reports(window, kmsg, "kmsg")
    yield from _dying(run.path, window, kmsg)
    yield from _recovery(window, kmsg)
    yield from _display(run, window, kmsg, deadlocked)
    yield from _selftests(window, kmsg)
    yield from _flood(window, kmsg)
    yield from _losses(window, kmsg)


def finding(
    kind: str, severity: Severity, title: str, place: Place | None = None, text: str = ""
) -> Finding:
    """One whose title is its identity."""
    return Finding(kind, severity, title, signature(kind, title), place, text[:EXCERPT])


def folded(findings: list[Finding]) -> list[Finding]:
    """What is found again and again in one test is one finding, in its first place: a hung task
    is reported at every check."""
    again = Counter((found.signature, found.severity) for found in findings)
    first: dict[tuple[str, Severity], Finding] = {}
    for found in findings:
        first.setdefault((found.signature, found.severity), found)
    return [
        found
        if again[key] == 1
        else msgspec.structs.replace(
            found, text=f"{found.text}\n({again[key]} times in this test)".lstrip()
        )
        for key, found in first.items()
    ]


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
        found = finding("recovery", severity, title, place, event.text)
        told = next((recovery.title for recovery in whole if event in recovery.events), "")
        if told and severity == "fail":
            # whose job it was is no part of the identity
            found = msgspec.structs.replace(found, title=f"{title}: {told}")
        yield found


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
        yield finding("commit-timeout", severity, title, place, timeout.text)


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
            yield finding("selftest", "fail", title, place, f"st_random_seed={run.seed}")
    for test in modtests.find(kmsg):
        if test.outcome in ("fail", "missing"):
            place = Place(window.boot_id, "kmsg", test.seq, test.seq)
            yield finding("selftest", "fail", test.title, place, test.why)


def _flood(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    if len(kmsg) <= FLOOD:
        return
    sorts = Counter(splats.steady(record.text) for record in kmsg if not record.facility)
    (most, count), *_ = sorts.most_common(1)
    if count > FLOOD:
        place = Place(window.boot_id, "kmsg", kmsg[0].seq, kmsg[-1].seq)
        yield finding("log-flood", "fail", f"the log is flooded with: {most}", place)


def _losses(window: Window, kmsg: list[records.Record]) -> Iterator[Finding]:
    for first, last in records.gaps(kmsg):
        place = Place(window.boot_id, "kmsg", first, last)
        yield finding("log-lost", "unknown", "kernel log records were lost", place)
    if window.last_seq is not None and (not kmsg or kmsg[-1].seq < window.last_seq):
        yield finding("log-lost", "unknown", "the kernel log ends before the test did")
