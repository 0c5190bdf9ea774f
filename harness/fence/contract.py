"""The contract: what every fence, waiter and recovery owes, checked on a ledger.

Each breach is a finding with the fence's life story.  Pure; where events were
lost the answer is unknown, never a pass.

Facts: Documentation/driver-api/dma-buf.rst ("DMA Fence Cross-Driver Contract")
and drivers/dma-buf/dma-fence.c of Linux 6.12.
"""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from harness.evidence.finding import Finding, Severity, signature
from harness.evidence.jobs import JobLine
from harness.fence import story
from harness.fence.fences import NEVER, Fence, Role, State
from harness.fence.ledger import Ledger
from harness.fence.syscalls import Ending

__all__ = ["Rules", "check"]

# Fences made of others.  They may legally never show that they have signalled, and a chain's
# numbers are its user's (dma-fence-array.c, dma-fence-chain.c).
_CONTAINERS = ("dma_fence_array", "dma_fence_chain")
# A PCI device's name (drivers/pci/probe.c).
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# Stories told of one sort of breach; the others are counted.
_TOLD = 3

Rows = NDArray[np.int64]


class Rules(Struct, frozen=True, kw_only=True):
    """What a target and its driver are held to.

    `deadline_ns`: by then a fence has signalled and a recovery has ended; `wake_ns`: by then
    a waiter runs after its fence; `hang_errors`: what a killed job's fence may end with, None
    where nobody knows; `user_drivers`: whose fences userspace itself signals when it likes.
    """

    deadline_ns: int
    wake_ns: int = 5_000_000_000
    hang_errors: frozenset[int] | None = None
    user_drivers: frozenset[str] = frozenset()


class _Breaches:
    """Collects findings; equal ones become one, of which the first stories are told."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, Severity, str], list[Callable[[], str]]] = defaultdict(list)

    def add(self, kind: str, severity: Severity, title: str, text: Callable[[], str]) -> None:
        self._texts[kind, severity, title].append(text)

    def findings(self) -> Iterator[Finding]:
        for (kind, severity, title), texts in self._texts.items():
            shown = [text() for text in texts[:_TOLD]]
            if len(texts) > _TOLD:
                shown.append(f"and {len(texts) - _TOLD} more of the same sort")
            yield Finding(kind, severity, title, signature(kind, title), None, "\n\n".join(shown))


def check(ledger: Ledger, rules: Rules) -> list[Finding]:
    """Every breach of the contract, and what could not be told."""
    breaches = _Breaches()
    _unended(ledger, rules, breaches)
    _late(ledger, rules, breaches)
    _order(ledger, rules, breaches)
    _numbers(ledger, rules, breaches)
    _errors(ledger, rules, breaches)
    _waiters(ledger, rules, breaches)
    _returns(ledger, breaches)
    _recoveries(ledger, rules, breaches)
    _doubts(ledger, breaches)
    return list(breaches.findings())


def _title(fence: Fence) -> str:
    """Driver, timeline and role without what differs from night to night: i915 says the
    device's address for its name, and has the client's pid in brackets at the timeline's end."""
    timeline = fence.timeline.split("[")[0] or fence.timeline
    driver = "gpu" if _ADDRESS.fullmatch(fence.driver) else fence.driver
    role = "" if fence.role == Role.OTHER else f" {fence.role}"
    return f"{driver} {timeline}{role} fence"


def _owed(ledger: Ledger, rules: Rules) -> NDArray[np.bool_]:
    """Which fences their drivers owe a signal: not containers, not userspace's own."""
    return ~ledger.fences.driven_by(*_CONTAINERS, *rules.user_drivers)


def _unended(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """Pending past the deadline, or freed unsignalled; of a fence that nobody listens to only
    a note, since its driver need not have noticed that it completed."""
    f = ledger.fences
    owed, heard = _owed(ledger, rules), f.listened_order() != NEVER
    age = ledger.last - f.due_from()
    for row in np.flatnonzero(owed & f.ended(State.PENDING)).tolist():
        overdue = age[row] > rules.deadline_ns
        late = "never signalled" if overdue else "was pending when the test ended"
        turn = f[row].role == Role.SCHEDULED  # it waits for its turn; its job's others tell
        severity: Severity = "fail" if heard[row] and overdue and not turn else "note"
        title = f"{_title(f[row])} {late}"
        breaches.add("fence-pending", severity, title, partial(_beside, ledger, row))
    for row in np.flatnonzero(owed & f.ended(State.FREED)).tolist():
        # The scheduler's own two are dropped like this when a submission fails half-way.
        pair = f[row].role in (Role.SCHEDULED, Role.FINISHED) and f.enabled[row] == NEVER
        severity = "fail" if heard[row] and not pair else "note"
        title = f"{_title(f[row])} was freed unsignalled"
        breaches.add("fence-freed", severity, title, partial(story.tell, ledger, row))


def _late(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """Signalled, but past the deadline."""
    f = ledger.fences
    took = np.where(f.signaled == NEVER, 0, f.signaled - f.due_from())
    heard = f.listened_order() != NEVER
    late = _owed(ledger, rules) & heard & (took > rules.deadline_ns)
    late &= ~f.has(Role.SCHEDULED)  # it waits for its turn, and its job's others tell
    for row in np.flatnonzero(late).tolist():
        title = f"{_title(f[row])} signalled only after its deadline"
        breaches.add("fence-late", "fail", title, partial(story.tell, ledger, row))


def _beside(ledger: Ledger, row: int) -> str:
    """The story of a pending fence, and which other drivers' fences are stuck with it."""
    f = ledger.fences
    others = np.unique(f.driver[f.ended(State.PENDING)]).tolist()
    names = sorted(f.strings[other] for other in others if other != f.driver[row])
    told = story.tell(ledger, row)
    return f"{told}\npending beside it: fences of {', '.join(names)}" if names else told


def _order(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """On one timeline a later fence tells that all earlier ones are done.

    An earlier one to which nobody listened by then may be noticed late; and one that another
    CPU was signalling just then may have been traced late.
    """
    f = ledger.fences
    heard = f.listened_order()
    watched = np.flatnonzero(_owed(ledger, rules) & (f.signaled != NEVER) & ~f.renumbered)
    for rows in _timelines(ledger, watched):
        order = f.signaled_order[rows]
        # The first signal of any later number; the last row has none.
        later = np.minimum.accumulate(order[::-1])[::-1][1:]
        own, since = order[:-1], heard[rows[:-1]]
        wrong = (later < own) & (since != NEVER) & (since < later)
        for at in np.flatnonzero(wrong):
            over = int(rows[at + 1 :][np.argmin(order[at + 1 :])])
            row = int(rows[at])
            if not ledger.surely_after(int(f.signaled_order[over]), row):
                continue
            title = f"{_title(f[row])} signalled after a later one of its timeline"
            text = partial(_both, ledger, row, over)
            breaches.add("fence-order", "fail", title, text)


def _said(text: str) -> Callable[[], str]:
    return lambda: text


def _both(ledger: Ledger, row: int, over: int) -> str:
    return f"{story.tell(ledger, row)}\n\novertaken by\n{story.tell(ledger, over)}"


def _after(ledger: Ledger, row: int, number: int) -> str:
    return f"{story.tell(ledger, row)}\n\nmade after number {number} of its timeline"


def _timelines(ledger: Ledger, rows: Rows) -> Iterator[Rows]:
    """`rows` of each context, by number; numbers that wrapped at 32 bits go on."""
    f = ledger.fences
    bounds = np.flatnonzero(np.diff(f.context[rows])) + 1
    for part in np.split(rows, bounds):
        if len(part) > 1:
            numbers = f.seqno[part]
            # Around a wrap the numbers are both tiny and huge: half the circle tells which.
            start = numbers[0] if numbers[-1] - numbers[0] < 1 << 31 else _after_gap(numbers)
            yield part[np.argsort(numbers - start, kind="stable")]


def _after_gap(numbers: NDArray[np.uint32]) -> np.uint32:
    """The first of the numbers after the widest gap of a sorted circle."""
    return np.uint32(numbers[int(np.argmax(np.diff(numbers))) + 1])


def _numbers(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """Each fence of a job's timeline is numbered above the one made before it, also if that was
    made before the test.

    Others are left alone: virtio-gpu numbers its fences when it emits them, and amdgpu's TLB
    fences share a number (virtgpu_fence.c, amdgpu_vm_tlb_fence.c).
    """
    f = ledger.fences
    job = f.on_ring() | f.has(Role.SCHEDULED, Role.FINISHED)
    born = np.flatnonzero(_owed(ledger, rules) & job & (f.born != NEVER))
    born = born[np.lexsort((f.born_order[born], f.context[born]))]
    context, number = f.context[born], f.seqno[born]
    same = np.zeros(len(born), dtype=bool)
    same[1:] = context[1:] == context[:-1]
    before = np.roll(number, 1)
    for at in np.flatnonzero(~same):
        earlier = ledger.predecessors.get(int(context[at]))
        if earlier is not None:
            same[at], before[at] = True, earlier
    step = (number - before).astype(np.int32)
    for at in np.flatnonzero(same & (step <= 0)):
        row = int(born[at])
        title = f"{_title(f[row])} is not numbered above its predecessor"
        text = partial(_after, ledger, row, int(before[at]))
        breaches.add("fence-seqno", "fail", title, text)


def _errors(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """A job that recovery killed ends with an error, and with one its driver gives."""
    f = ledger.fences
    for job, row in zip(ledger.jobs, ledger.rows_of(ledger.jobs), strict=True):
        if job.kind != "hang" or not job.signaled or row is None or _released(job):
            continue
        title = _title(f[row])
        if job.error == 0 and _killed(ledger, row):
            text = partial(story.tell, ledger, row)
            breaches.add("fence-error", "fail", f"{title} of a killed job has no error", text)
        elif job.error and rules.hang_errors is not None and job.error not in rules.hang_errors:
            name = errno.errorcode.get(-job.error, str(-job.error))
            text = partial(story.tell, ledger, row)
            breaches.add("fence-error", "fail", f"{title} of a killed job ended with {name}", text)


def _released(job: JobLine) -> bool:
    """Whether the CPU ended it before its fence signalled."""
    if job.released_ns is None:
        return False
    return job.timestamp_ns is None or job.released_ns <= job.timestamp_ns


def _killed(ledger: Ledger, row: int) -> bool:
    f = ledger.fences
    job = f[row].job
    rows = [row] if job is None else f.of_job(job)
    return any(f[other].state in (State.FORCED, State.IN_RECOVERY) for other in rows)


def _waiters(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    """Who sleeps on a fence runs soon after it has signalled; nobody sleeps for ever."""
    f = ledger.fences
    keys = f.key()
    for wait in ledger.waits:
        row = ledger.row_of(wait.context, wait.seqno, wait.begin, keys)
        until = wait.end if wait.end is not None else ledger.last
        if row is None or ledger.lost_between(wait.begin, until):
            continue
        fence = f[row]
        overdue = until - wait.begin > rules.deadline_ns
        if fence.signaled is not None:
            if until - max(fence.signaled, wait.begin) > rules.wake_ns:
                _not_woken(ledger, row, breaches)
        elif wait.end is None and wait.interruptible is False and overdue:
            # For what userspace signals when it likes, whoever chose to wait so is to blame.
            severity: Severity = "note" if fence.driver in rules.user_drivers else "fail"
            title = f"a task sleeps uninterruptibly on a {_title(fence)}"
            breaches.add("fence-waiter", severity, title, partial(story.tell, ledger, row))
    for job, found in zip(ledger.jobs, ledger.rows_of(ledger.jobs), strict=True):
        if found is not None and _overslept(job) > rules.wake_ns:
            _not_woken(ledger, found, breaches)


def _not_woken(ledger: Ledger, row: int, breaches: _Breaches) -> None:
    title = f"a waiter slept on after its {_title(ledger.fences[row])} had signalled"
    breaches.add("fence-waiter", "fail", title, partial(story.tell, ledger, row))


def _overslept(job: JobLine) -> int:
    """How long its submitter's wait went on when it need not have, in ns."""
    if job.woken_ns is None or job.timestamp_ns is None or job.waited_ns is None:
        return 0
    return job.woken_ns - max(job.timestamp_ns, job.waited_ns)


def _returns(ledger: Ledger, breaches: _Breaches) -> None:
    """What userspace may see of an interrupted wait: nothing without a signal."""
    restarted = 0
    for one in ledger.interruptions:
        who = f"{ledger.comms.get(one.pid, 'pid')} [{one.pid}]"
        text = (
            f"{who}: ioctl {one.command:#010x} ended with {one.errname} at {one.time / 1e9:.6f} s"
        )
        lost = ledger.lost_between(one.time, one.until)
        if one.ending == Ending.LEAKED and not lost:
            title = f"{one.errname} reached userspace from a DRM ioctl"
            breaches.add("wait-restart", "fail", title, _said(text))
        elif one.ending == Ending.EINTR and not lost:
            title = "a DRM ioctl returned EINTR although no signal came"
            breaches.add("wait-eintr", "fail", title, _said(text))
        restarted += one.ending == Ending.RESTARTED
    if restarted:
        title = "interrupted DRM ioctls were restarted, unnoticed by userspace"
        breaches.add("wait-restart", "note", title, _said(f"{restarted} times"))


def _recoveries(ledger: Ledger, rules: Rules, breaches: _Breaches) -> None:
    for recovery in ledger.recoveries:
        end = recovery.end if recovery.end is not None else ledger.last
        if end - recovery.begin <= rules.deadline_ns or ledger.lost_between(recovery.begin, end):
            continue
        how = "ended too late" if recovery.end is not None else "did not end"
        text = f"on {ledger.comms.get(recovery.pid, 'pid')} [{recovery.pid}], "
        text += f"for {(end - recovery.begin) / 1e9:.3f} s"
        breaches.add("recovery-long", "fail", f"a recovery {how}", _said(text))


def _doubts(ledger: Ledger, breaches: _Breaches) -> None:
    if not ledger.losses:
        return
    unknown = int(ledger.fences.ended(State.UNKNOWN).sum())
    lines = [
        f"CPU {loss.cpu}: {'' if loss.count is None else loss.count} events between "
        f"{loss.after_ns / 1e9:.6f} s and {loss.before_ns / 1e9:.6f} s"
        for loss in ledger.losses
    ]
    text = "\n".join([f"{unknown} of {len(ledger.fences)} fences seen are unknown", *_few(lines)])
    title = "trace events were lost: the fences cannot be accounted for"
    breaches.add("fence-account", "unknown", title, _said(text))


def _few(lines: list[str]) -> Iterable[str]:
    return lines if len(lines) <= 10 else [*lines[:10], f"and {len(lines) - 10} more"]
