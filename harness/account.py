"""A test's fence account: from the files of its run to a ledger, its breaches, its pictures.

Knows where the trace lies and what the target is held to; harness/fence/ counts and draws.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from harness.errors import LabError, UsageError
from harness.evidence import jobs, snapshot
from harness.evidence.files import write_bytes
from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import RunDir, Window
from harness.fence import contract, deadlock, ledger, perfetto, recoveries, timeline
from harness.fence.contract import Rules
from harness.fence.fences import NEVER, State
from harness.fence.ledger import Ledger
from harness.fence.trace import Trace
from harness.gpu import backend_for
from harness.gpu.base import USER_FENCES
from harness.inventory import Limits

__all__ = [
    "PERFETTO",
    "PICTURE",
    "Account",
    "Accounted",
    "draw",
    "durations",
    "open_account",
    "rules_of",
]

PICTURE, PERFETTO = "fences.svg", "fences.perfetto-trace"
"""What `draw` leaves beside a test's verdict."""

Accounted = Literal["accounted", "unknown", "none"]


# How far before a test its timelines are followed, for the number of its first fence.
LOOK_BACK_NS = 120_000_000_000
# Of larger accounts no Perfetto file is made unasked: it takes long and is large.
MANY = 20_000


class Account(Struct, frozen=True):
    """What is known of a test's fences.  `state` is "none" where nothing was traced, "unknown"
    where some of it is missing; `why` says so in words.  `recovered`: whether the driver's
    timeout handler ran, None where that was not traced."""

    state: Accounted
    why: str = ""
    ledger: Ledger | None = None
    findings: tuple[Finding, ...] = ()
    recovered: bool | None = None


def open_account(run: RunDir, window: Window) -> Account:
    """The account of `window`, up to now where it is still open.

    Never raises for a broken trace: that is missing evidence, and a finding says so.
    """
    if window.trace_first is None:
        if not window.trace:
            return Account("none", "this run recorded no trace")
        return Account("none", window.trace, None, (_note(f"no fence account: {window.trace}"),))
    facts = run.facts()
    rules = rules_of(facts)
    path = run.path / f"boot-{window.boot_id}" / window.trace_dir
    try:
        trace = Trace.open(path)
        unseen = ledger.unseen(trace.events)
        if unseen & ledger.NEEDED:
            return Account("none", f"this kernel does not trace {', '.join(sorted(unseen))}")
        since = window.trace_first - LOOK_BACK_NS
        made = ledger.build(
            trace.read(ledger.EVENTS, window.trace_first, window.trace_last),
            window.trace_first,
            window.trace_last,
            late_ns=rules.deadline_ns,
            jobs=jobs.read(run.test(window.test) / "jobs.jsonl"),
            comms=trace.comms(),
            cut=bool(window.trace),
            before=trace.read(ledger.BEFORE, since, window.trace_first - 1),
        )
    except LabError as error:
        return _missing(f"the trace cannot be read: {error.what}")
    seen = snapshot.read(run.test(window.test))
    findings = [
        *contract.check(made, rules),
        *deadlock.check(made, seen, rules.deadline_ns),
    ]
    if unseen:
        findings.append(_note(f"not traced on this kernel: {', '.join(sorted(unseen))}"))
    if window.trace:
        findings += _missing(window.trace).findings
    unknown = any(finding.severity == "unknown" for finding in findings)
    timed = not unknown and not unseen & {*recoveries.EVENTS, *recoveries.DRIVERS_OWN}
    return Account(
        "unknown" if unknown else "accounted",
        window.trace,
        made,
        tuple(findings),
        bool(made.recoveries) if timed else None,
    )


def draw(account: Account, directory: Path, title: str) -> None:
    """Write the timeline, and the Perfetto file of what is not too large, into `directory`.

    Raises LabError (disk full, ...).
    """
    ledger_ = account.ledger
    if ledger_ is None:
        return
    picture = timeline.render(ledger_, title).encode()
    write_bytes(directory / PICTURE, picture, derived=True)
    if len(ledger_.fences) <= MANY:
        data = io.BytesIO()
        perfetto.write(ledger_, data, title)
        write_bytes(directory / PERFETTO, data.getvalue(), derived=True)


def durations(run: RunDir, window: Window, account: Account) -> dict[str, float]:
    """How long recovery took in a test, in seconds of the target's clock; what was not seen is
    left out.

    `tdr`: from the submission of a hang to its fence's end, the longest; `recovery`: the longest
    run of a timeout handler; `fence`: the median life of a job's fence that no recovery touched.
    """
    # One that the CPU released measures our patience, not the kernel's recovery.
    tdr = [
        line.timestamp_ns - line.submitted_ns
        for line in jobs.read(run.test(window.test) / "jobs.jsonl")
        if line.kind == "hang" and line.timestamp_ns is not None and line.released_ns is None
    ]
    found = {"tdr": max(tdr, default=0)}
    made = account.ledger
    if made is not None:
        ended = [r.end - r.begin for r in made.recoveries if r.end is not None]
        found["recovery"] = max(ended, default=0)
        fences = made.fences
        healthy = fences.jobs() & fences.ended(State.IN_TIME) & (fences.born != NEVER)
        lives = (fences.signaled - fences.born)[healthy & (fences.signaled != NEVER)]
        found["fence"] = int(np.median(lives)) if len(lives) else 0
    return {what: ns / 1e9 for what, ns in found.items() if ns > 0}


def rules_of(facts: dict[str, Any]) -> Rules:
    """What the target of a run is held to, by its run.json."""
    target = facts.get("target", {})
    limits = msgspec.convert(target.get("limits", {}), Limits)
    try:
        errors = backend_for(target.get("driver", "")).hang_errors()
    except UsageError:
        errors = None
    return Rules(deadline_ns=int(limits.tdr_s * 1e9), hang_errors=errors, user_drivers=USER_FENCES)


def _note(title: str) -> Finding:
    return Finding("fence-account", "note", title, signature("fence-account", title))


def _missing(why: str) -> Account:
    title = "the fences cannot be accounted for"
    finding = Finding(
        "fence-account", "unknown", title, signature("fence-account", title), None, why
    )
    return Account("unknown", why, None, (finding,))
