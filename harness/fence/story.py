"""A fence's life story: what is known of it, in order, as text for a person."""

from __future__ import annotations

from collections.abc import Iterator

from harness.fence.fences import Fence
from harness.fence.ledger import Ledger

__all__ = ["tell"]

# As many waits on one fence are told one by one.
_WAITS = 8


def tell(ledger: Ledger, row: int) -> str:
    """The story of the fence in `row`: a title line, then one line an event, seconds from its
    birth (or from the first that was seen of it)."""
    fence = ledger.fences[row]
    zero = fence.born if fence.born is not None else fence.first
    head = f"{fence.name} ({fence.role}): {fence.state}"
    if fence.renumbered:
        head += ", renumbered by a resubmission"
    lines = [
        f"{(time - zero) / 1e9:+12.6f} s  {what}"
        for time, what in sorted(_events(ledger, row, fence))
    ]
    if fence.born is None:
        lines.insert(0, f"{'':15}born before the test")
    return "\n".join([head, *lines])


def _events(ledger: Ledger, row: int, fence: Fence) -> Iterator[tuple[int, str]]:
    if fence.born is not None:
        yield fence.born, f"born, made by {_who(ledger, fence.maker)}"
    if fence.enabled is not None:
        yield fence.enabled, "signalling enabled"
    if fence.signaled is not None:
        error = {None: "", 0: ", no error"}.get(fence.error, f", error {fence.error}")
        yield fence.signaled, f"signalled by {_who(ledger, fence.signaler)}{error}"
    if fence.destroyed is not None:
        yield fence.destroyed, "destroyed"
    if fence.job is not None:
        for other in ledger.fences.of_job(fence.job):
            if other != row:
                relative = ledger.fences[other]
                yield relative.first, f"{relative.role} fence {relative.name}: {relative.state}"
    end = fence.destroyed or fence.signaled or ledger.last
    for recovery in ledger.recoveries:
        if recovery.begin <= end and (recovery.end or ledger.last) >= fence.first:
            yield recovery.begin, f"recovery began on {_who(ledger, recovery.pid)}"
            if recovery.end is not None:
                yield recovery.end, "recovery ended"
    waits = [w for w in ledger.waits if (w.context, w.seqno) == (fence.context, fence.seqno)]
    for wait in waits[:_WAITS]:
        how = {True: "interruptibly", False: "uninterruptibly", None: ""}[wait.interruptible]
        yield wait.begin, f"{_who(ledger, wait.pid)} waits {how}".rstrip()
        if wait.end is not None:
            result = "" if wait.result is None else f", result {wait.result}"
            yield wait.end, f"{_who(ledger, wait.pid)} goes on{result}"
    if len(waits) > _WAITS:
        yield waits[_WAITS].begin, f"and {len(waits) - _WAITS} more waits"
    for loss in ledger.losses:
        if loss.after_ns <= end and loss.before_ns >= fence.first:
            yield (
                loss.after_ns,
                f"events of CPU {loss.cpu} were lost for {_span(loss.before_ns - loss.after_ns)}",
            )
    yield ledger.last, "the test ended"


def _who(ledger: Ledger, pid: int) -> str:
    comm = ledger.comms.get(pid, "")
    if not pid:
        return "an idle CPU's interrupt"
    return f"{comm or 'pid'} [{pid}]"


def _span(ns: int) -> str:
    return f"{ns / 1e9:.6f} s"
