"""Findings -> verdict: what one test proved, from the files of its run and the known issues.

A pure function of both, so `lab replay` judges last month's night with today's
parser.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from harness import coverage
from harness.account import Account, Accounted, draw, durations, open_account
from harness.errors import LabError
from harness.evidence.files import read_json, write_bytes, write_json
from harness.evidence.finding import Finding, signature
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir, Window
from harness.findings import finding, folded, of_log
from harness.kernel import lockdep, picture, records, resets, splats
from harness.kernel.cycle import cycle_of
from harness.known import KnownIssues, Scope
from harness.masking import masker

log = logging.getLogger(__name__)

__all__ = ["Outcome", "Verdict", "cycle_picture", "judge", "recorded", "rejudge", "slice_of"]

Outcome = Literal["pass", "fail", "skip", "xfail", "incomplete", "blind", "error"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "skip", "xfail", "incomplete", "blind", "error")


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
        *of_log(run, window, kmsg, deadlocked=any(map(_deadlock, account.findings))),
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
        findings.append(finding("lockdep-off", "unknown", "lockdep went off without a report"))
    findings = folded(findings)
    if window.trouble:
        # A GPU that is taken from under it makes any kernel complain: none of that is its fault.
        findings = [msgspec.structs.replace(finding, severity="note") for finding in findings]
    scope = _scope(run, window, known)
    outcome, reason, excused = _weigh(window, findings, armed, scope)
    off = outcome == "blind" and window.health_before.get("debug_locks") == 0
    masked = masker(run, window.boot_id, window.test) if off else ("", "")
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
    run: RunDir,
    window: Window,
    known: KnownIssues = NONE,
    before: Verdict | None = None,
    saved: Callable[[], None] = lambda: None,
) -> Verdict:
    """Judge, and keep the answer beside the evidence, unless it is still the one of `before`;
    `saved` waits until the window, too, is on disk."""
    account = open_account(run, window)
    verdict = _judge(run, window, account, known)
    if verdict == before:
        return verdict
    saved()
    path = run.test(window.test)
    write_json(path / "findings.json", verdict.findings, derived=True)
    # With its trace torn by a power cut of this host it could not be told again.
    write_json(path / "verdict.json", verdict)
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
    for found in verdict.findings:
        report = lockdep.parse(found.text.split("\n")) if found.explanation else None
        if report and (cycle := cycle_of(report)):
            drawn = picture.render(cycle, found.title)
            write_bytes(directory / cycle_picture(found), drawn.encode(), derived=True)


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


def _deadlock(finding: Finding) -> bool:
    return finding.kind == "deadlock" and finding.severity == "fail"


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
