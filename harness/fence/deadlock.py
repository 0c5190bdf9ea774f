"""Deadlocks: a recovery that waits for somebody who waits for the job it is to recover.

Only a timeout ends that, if anything does.  The finding is drawn from the trace alone;
stacks and held locks come from a snapshot that was taken while it lasted.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from harness.evidence.finding import Finding, signature
from harness.evidence.snapshot import Snapshot, Task
from harness.fence import story
from harness.fence.ledger import Ledger
from harness.fence.stalls import Behind, Stall
from harness.kernel import heldlocks

__all__ = ["check"]

KIND = "deadlock"
# A commit that is woken, drops its locks and comes back is through within some frames.
_HELD_UP_NS = 1_000_000_000

_HOW = {
    Behind.LOCK: "behind a commit that waits for the hung job's fence while holding the "
    "modeset locks",
    Behind.COMMIT: "behind a commit that waits for the hung job's fence",
    Behind.FENCE: "by its own wait for the hung job's fence",
}


def check(ledger: Ledger, snapshots: Sequence[Snapshot], deadline_ns: int) -> list[Finding]:
    """Each way in which a recovery was held up by the job that it was to end, and for how long.

    A fence is the hung job's when nobody but recovery ends it: it was not signalled before
    recovery went on, or only later than any job may take, `deadline_ns`; or its submitter
    says so, who ended it only when nobody looked any more.  Where the trace does not tell who
    lets go of a lock, the holder is a guess, and the finding "unknown".
    """
    hung = {
        (job.context, job.seqno)
        for job in ledger.jobs
        if job.kind == "hang" and not job.released_ns
    }
    sorts: dict[tuple[int, Behind, bool, bool], list[Stall]] = defaultdict(list)
    for stall in ledger.stalls:
        known = (stall.wait.context, stall.wait.seqno) in hung
        if _deadlocked(ledger, stall, 0 if known else deadline_ns):
            sorts[_recovery(ledger, stall), stall.behind, stall.display, stall.sure].append(stall)
    found = []
    for (recovery, behind, display, sure), stalls in sorts.items():
        total = _union(ledger, stalls)
        if total < _HELD_UP_NS:
            continue
        what = "display reset" if display else "recovery"
        title = f"{what} held up {total / 1e9:.1f} s {_HOW[behind]}"
        shown = _shown(ledger, stalls, snapshots)
        text = "\n\n".join([_span(ledger, recovery), *_told(ledger, stalls), *shown])
        # The same bug holds up a little longer tonight.
        same = signature(KIND, f"{what} held up {_HOW[behind]}")
        found.append(Finding(KIND, "fail" if sure else "unknown", title, same, None, text))
    return found


def _deadlocked(ledger: Ledger, stall: Stall, patience_ns: int) -> bool:
    wait, end = stall.wait, stall.end if stall.end is not None else ledger.last
    if ledger.lost_between(stall.since, end):
        return False
    row = ledger.row_of(wait.context, wait.seqno, wait.begin, ledger.fences.key())
    fence = ledger.fences[row] if row is not None else None
    signaled = fence.signaled if fence is not None else None
    if wait.result is None and wait.end is not None and fence is None:
        return False  # how it ended is not known
    if wait.result is not None and wait.result > 0:
        signaled = min(signaled or end, end)
    in_vain = signaled is None or signaled > end
    return in_vain or end - stall.begin > patience_ns


def _recovery(ledger: Ledger, stall: Stall) -> int:
    """When the recovery began that stood still."""
    begins = [r.begin for r in ledger.recoveries if r.pid == stall.pid and r.begin <= stall.since]
    return max(begins, default=0)


def _span(ledger: Ledger, began: int) -> str:
    ends = [r.end for r in ledger.recoveries if r.begin == began and r.end is not None]
    return f"the recovery: {_s(began)} to {_s(ends[0]) if ends else 'the end of the test'}"


def _union(ledger: Ledger, stalls: Iterable[Stall]) -> int:
    """ns in which any of `stalls` lasted: a commit may wait for the fences of two jobs."""
    total, until = 0, 0
    spans = [(s.begin, s.end if s.end is not None else ledger.last) for s in stalls]
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, until))
        until = max(until, end)
    return total


def _told(ledger: Ledger, stalls: Iterable[Stall]) -> Iterator[str]:
    """What the trace says: who wanted what, who had it, and the fence's story."""
    for stall in stalls:
        wait = stall.wait
        asked = f"{_who(ledger, stall.pid)} recovers and {_wants(stall)} at {_s(stall.since)}"
        went_on = "still when the test ended" if stall.until is None else _s(stall.until)
        lines = [f"{asked}, went on: {went_on}"]
        fence = f"{wait.driver} {wait.timeline} {wait.context}:{wait.seqno}"
        ended = "still when the test ended" if wait.end is None else _s(wait.end)
        lines.append(
            f"{_who(ledger, wait.pid)} waits for fence {fence} from {_s(wait.begin)}, until: "
            f"{ended}{_result(wait.result)}"
        )
        row = ledger.row_of(wait.context, wait.seqno, wait.begin, ledger.fences.key())
        if row is not None:
            lines.append(story.tell(ledger, row))
        yield "\n".join(lines)


def _wants(stall: Stall) -> str:
    if stall.behind == Behind.FENCE:
        return "waits itself for the fence"
    verb = "wants" if stall.behind == Behind.LOCK else "waits for"
    return f"{verb} {stall.behind} ({stall.what:#x})"


def _result(result: int | None) -> str:
    """What the wait returned: 0 or, from i915's own (i915_request.c), -ETIME when it gave up."""
    if result is None or result > 0:
        return ""
    name = errno.errorcode.get(-result, "")
    given_up = ", the time was up" if result == 0 or name == "ETIME" else ""
    return f" with {result}{given_up or (f' ({name})' if name else '')}"


def _shown(ledger: Ledger, stalls: Sequence[Stall], snapshots: Iterable[Snapshot]) -> Iterator[str]:
    """Stacks and locks of the two, from the first snapshot within."""
    for snapshot in snapshots:
        for stall in stalls:
            end = stall.end if stall.end is not None else ledger.last
            if stall.begin <= snapshot.mono <= end:
                yield _picture(ledger, stall, snapshot)
                return
    yield "no snapshot was taken meanwhile: there are no stacks"


def _picture(ledger: Ledger, stall: Stall, snapshot: Snapshot) -> str:
    tasks = {task.tid: task for task in snapshot.tasks}
    locks = heldlocks.parse(snapshot.locks.splitlines())
    lines = [f"at {_s(snapshot.mono)}, {(snapshot.mono - stall.begin) / 1e9:.1f} s into it:"]
    for pid in dict.fromkeys((stall.pid, stall.wait.pid)):
        lines.append(f"{_who(ledger, pid)}: {_state(tasks.get(pid))}")
        for lock in locks.get(pid, ()):
            lines.append(f"  holds or wants {lock.name} {lock.address}, at {lock.where}")
    wanted = locks.get(stall.pid, ())[-1:]
    for lock in wanted:
        # "(ptrval)" stands for any address, so the names must be the same as well.
        held = {(other.address, other.name) for other in locks.get(stall.wait.pid, ())}
        if (lock.address, lock.name) in held:
            lines.append(f"what recovery wants, {lock.name} {lock.address}, the other one holds")
    return "\n".join(lines)


def _state(task: Task | None) -> str:
    if task is None:
        return "not in the snapshot"
    if task.error:
        return task.error
    return "\n".join([f"state {task.state}", *(f"  {line}" for line in task.stack.splitlines())])


def _who(ledger: Ledger, pid: int) -> str:
    return f"{ledger.comms.get(pid, '') or 'pid'} [{pid}]"


def _s(time: int) -> str:
    return f"{time / 1e9:.6f} s"
