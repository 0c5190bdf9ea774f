"""The ledger: who a fence is, how it ended, and what nobody can know."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from harness.fence import ledger as fence_ledger
from harness.fence.fences import Fence, Role, State
from harness.fence.ledger import Ledger
from harness.fence.syscalls import Ending
from harness.fence.trace import Trace
from harness.tests.tape import SECOND, Tape, job_line
from harness.tests.traces import sample


def only(ledger: Ledger, context: int, seqno: int) -> Fence:
    (found,) = [f for f in ledger.fences if (f.context, f.seqno) == (context, seqno)]
    return found


def test_a_job_is_its_three_fences() -> None:
    tape = Tape()
    tape.job(20, 5, (4, 77), 1.0, 1.5)
    ledger = tape.ledger(3)
    roles = {(f.context, f.seqno): f.role for f in ledger.fences}
    assert roles == {(20, 5): Role.SCHEDULED, (21, 5): Role.FINISHED, (4, 77): Role.HW}
    assert ledger.counts() == {
        "scheduled": {"in time": 1}, "finished": {"in time": 1}, "hw": {"in time": 1},
    }  # fmt: skip
    finished = next(i for i, f in enumerate(ledger.fences) if f.role == Role.FINISHED)
    assert {f.job for f in ledger.fences} == {finished}


def test_entities_side_by_side_are_not_mixed_up() -> None:
    # Contexts 20 to 23 are two entities; the second's birth was partly before the test.
    tape = Tape()
    tape.fence("signaled", 0.5, 22, 1, driver="drm_sched", pid=7)
    tape.fence("signaled", 0.6, 23, 1, driver="drm_sched", pid=7)
    tape.job(20, 1, (4, 1), 1.0, 2.0)
    tape.job(22, 2, (4, 2), 1.1, 2.1)
    ledger = tape.ledger(3)
    assert only(ledger, 21, 1).role == Role.FINISHED
    assert only(ledger, 22, 1).role == Role.SCHEDULED, "a context keeps its role"
    assert only(ledger, 23, 1).role == Role.FINISHED
    assert only(ledger, 22, 1).born is None


def test_entities_made_in_a_row_are_paired_rightly() -> None:
    tape = Tape()
    for n in range(6):
        tape.job(20 + 2 * n, 1, (4, 1 + n), 1.0 + n, 1.5 + n)
    assert tape.ledger(9).counts() == {
        "scheduled": {"in time": 6}, "finished": {"in time": 6}, "hw": {"in time": 6},
    }  # fmt: skip


def test_how_a_fence_ended() -> None:
    tape = Tape()
    tape.life(1, 1, 0.1, 0.2)
    tape.life(2, 1, 0.1, 11.0)
    tape.life(3, 1, 0.1, None)
    tape.life(4, 1, 0.1, None)
    tape.fence("destroy", 0.5, 4, 1)
    tape.life(5, 1, 4.0, None)
    tape.life(6, 1, 4.0, None)
    tape.put("lab:tdr_begin", 5.0, pid=9)
    tape.fence("signaled", 5.1, 5, 1, pid=9)
    tape.fence("signaled", 5.1, 6, 1, pid=0)
    tape.life(7, 1, 5.1, 5.2, pid=9)
    tape.put("lab:tdr_end", 5.3, pid=9)
    states = {f.context: f.state for f in tape.ledger(12).fences}
    assert states == {
        1: State.IN_TIME, 2: State.LATE, 3: State.PENDING, 4: State.FREED,
        5: State.FORCED, 6: State.IN_RECOVERY, 7: State.IN_TIME,
    }  # fmt: skip


def test_a_number_used_again_is_another_fence() -> None:
    # The kernel's trace has 32 bits of each: after 2**32 fences all comes again.
    tape = Tape()
    tape.life(1, 9, 0.1, 0.2)
    tape.fence("destroy", 0.3, 1, 9)
    tape.life(1, 9, 1.1, None)
    ledger = tape.ledger(3)
    assert [f.state for f in ledger.fences] == [State.IN_TIME, State.PENDING]
    assert [f.born for f in ledger.fences] == [SECOND // 10, round(1.1 * SECOND)]


def test_stub_fences_are_not_counted() -> None:
    tape = Tape()
    tape.life(0, 0, 0.1, 0.1, driver="stub", timeline="stub")
    assert len(tape.ledger(1).fences) == 0


def test_a_fence_keeps_the_name_it_was_born_with() -> None:
    tape = Tape()
    tape.fence("init", 0.1, 1, 1)
    tape.fence("signaled", 0.2, 1, 1)
    tape.fence("destroy", 0.3, 1, 1, driver="detached-driver", timeline="signaled-timeline")
    assert only(tape.ledger(1), 1, 1).name == "amdgpu gfx_0.0.0 1:1"


def test_a_resubmitted_job_gets_a_new_number_without_a_birth() -> None:
    tape = Tape()
    tape.job(20, 1, (4, 10), 1.0, None)
    tape.fence("signaled", 2.0, 4, 12, pid=0)
    tape.fence("signaled", 2.0, 21, 1, driver="drm_sched", pid=0)
    tape.fence("destroy", 2.5, 4, 12, pid=0)
    ledger = tape.ledger(3)
    hw = only(ledger, 4, 10)
    assert (hw.state, hw.renumbered, hw.signaled) == (State.IN_TIME, True, 2 * SECOND)
    assert len(ledger.fences) == 3, "its new number is no fence of its own"
    assert ledger.fences[hw.job or 0].role == Role.FINISHED


def test_where_events_were_lost_an_open_end_is_unknown() -> None:
    tape = Tape()
    tape.life(1, 1, 0.1, 0.2)  # ended before the loss
    tape.life(2, 1, 0.1, None)
    tape.life(3, 1, 3.0, None)  # born after it
    tape.lose(1.0, 2.0, 40)
    states = {f.context: f.state for f in tape.ledger(4).fences}
    assert states == {1: State.IN_TIME, 2: State.UNKNOWN, 3: State.PENDING}


def test_waits_tell_how_they_slept_and_ended() -> None:
    tape = Tape()
    tape.life(1, 1, 0.1, 0.9)
    for pid, begin, flag in ((11, 0.2, 1), (12, 0.3, 0)):
        tape.put("lab:wait_begin", begin, pid, intr=flag)
        tape.fence("wait_start", begin, 1, 1, pid=pid)
    tape.fence("wait_end", 0.4, 1, 1, pid=11)
    tape.put("lab:wait_end", 0.4, 11, ret=-512)
    tape.fence("wait_start", 0.5, 1, 1, pid=13)
    one, two, three = tape.ledger(1).waits
    assert (one.pid, one.interruptible, one.result, one.interrupted) == (11, True, -512, True)
    assert (two.pid, two.interruptible, two.end, two.interrupted) == (12, False, None, False)
    assert (three.pid, three.interruptible) == (13, None), "its probe was not seen"


@pytest.mark.parametrize(
    ("result", "after", "ending"),
    [
        (-512, "same", Ending.RESTARTED),
        (-513, "same", Ending.RESTARTED),
        (-512, "other", Ending.LEAKED),
        (-512, "signal", Ending.SIGNAL),
        (-512, "", Ending.OPEN),
        (-4, "other", Ending.EINTR),
        (-4, "", Ending.OPEN),
        (-4, "signal", Ending.SIGNAL),
    ],
)
def test_what_became_of_an_interrupted_ioctl(result: int, after: str, ending: Ending) -> None:
    tape = Tape()
    tape.ioctl(5, 0.1, 0.2, result)
    tape.ioctl(6, 0.1, 0.2, -12)  # another error and another thread: nobody's business
    if after == "same":
        tape.ioctl(5, 0.3, 0.4, 0)
    elif after == "other":
        tape.ioctl(5, 0.3, 0.4, 0, command=0xC0106444)
    elif after == "signal":
        tape.put("signal:signal_deliver", 0.25, 5, sig=10)
        tape.ioctl(5, 0.3, 0.4, 0)
    (one,) = tape.ledger(1).interruptions
    assert (one.pid, one.error, one.ending) == (5, -result, ending)


def test_ioctls_of_others_are_left_alone() -> None:
    tape = Tape()
    tape.ioctl(5, 0.1, 0.2, -4, command=0x5401)  # TCGETS
    assert tape.ledger(1).interruptions == ()


def test_a_recovery_that_never_returned_is_open() -> None:
    tape = Tape()
    tape.put("lab:tdr_begin", 1.0, pid=9)
    tape.put("lab:tdr_end", 1.5, pid=9)
    tape.put("lab:tdr_end", 1.6, pid=10)  # was running when the trace began
    tape.put("lab:tdr_begin", 2.0, pid=9)
    first, second = tape.ledger(4).recoveries
    assert (first.begin, first.end) == (SECOND, round(1.5 * SECOND))
    assert (second.begin, second.end) == (2 * SECOND, None)


def test_a_submitter_tells_the_error_that_a_trace_cannot() -> None:
    tape = Tape()
    tape.job((1 << 32) - 2, 5, (4, 77), 1.0, 3.0)
    # The handle tells all 64 bits.
    job = job_line((7 << 32) + (1 << 32) - 1, 5, -errno.ETIME)
    ledger = tape.ledger(4, jobs=(job, job_line(None, None, -errno.EIO)))
    assert only(ledger, (1 << 32) - 1, 5).error == -errno.ETIME
    assert only(ledger, 4, 77).error is None


def test_a_real_recording_of_three_hangs(tmp_path: Path) -> None:
    trace = Trace.open(sample("hangs", tmp_path))
    recording = trace.read(fence_ledger.EVENTS)
    first = min(int(table.time[0]) for table in recording.tables.values() if len(table))
    ledger = fence_ledger.build(recording, first, None, late_ns=20 * SECOND, comms=trace.comms())
    counts = ledger.counts()
    # A canary before and one after each of three hangs.
    assert counts["scheduled"] == {"in time": 9}
    assert counts["finished"] == counts["hw"] == {"in time": 6, "forced": 3}
    assert len(ledger.recoveries) == 3
    assert all(recovery.end for recovery in ledger.recoveries)
    assert {wait.interruptible for wait in ledger.waits} == {True}


def test_what_a_kernel_does_not_trace_is_known() -> None:
    own = {"i915:i915_request_queue", "lab:reset_begin", "lab:reset_end"}
    every = set(fence_ledger.EVENTS) - own
    renamed = "gpu_scheduler:drm_sched_job_run"
    assert fence_ledger.unseen(every - {renamed}) == frozenset()
    assert fence_ledger.unseen(every - {"lab:wait_end"}) == {"lab:wait_end"}
    assert fence_ledger.unseen(every - {renamed, "gpu_scheduler:drm_run_job"}) == {
        renamed, "gpu_scheduler:drm_run_job",
    }  # fmt: skip
    assert fence_ledger.unseen(()) >= fence_ledger.NEEDED
    # A driver that schedules by itself needs its own, and nothing of drm_sched's.
    scheduler = {renamed, "gpu_scheduler:drm_run_job", "lab:tdr_begin", "lab:tdr_end"}
    assert fence_ledger.unseen((every | own) - scheduler) == frozenset()
    assert fence_ledger.unseen((every | own) - {"lab:reset_end"}) == {"lab:reset_end"}


def test_a_request_is_its_job_s_only_fence() -> None:
    tape = Tape()
    tape.request(4, 7, 1.0, 1.5)
    # The kernel's own, on the same timeline, is nobody's job.
    tape.life(4, 8, 1.2, 1.6, driver="0000:00:02.0", timeline="[i915]", pid=9)
    ledger = tape.ledger(3)
    request = only(ledger, 4, 7)
    assert (request.role, request.state) == (Role.REQUEST, State.IN_TIME)
    row = list(ledger.fences).index(request)
    assert request.job == row
    assert ledger.fences.of_job(row) == [row]
    assert only(ledger, 4, 8).role == Role.OTHER
    assert ledger.fences.jobs().sum() == 1
    assert ledger.fences.on_ring().all()


def test_a_request_is_due_when_the_one_before_it_has_ended() -> None:
    tape = Tape()
    tape.request(4, 7, 0.0, 8.0)
    tape.request(4, 8, 0.1, 12.0)
    assert only(tape.ledger(13, late=10.0), 4, 8).state == State.IN_TIME
    alone = Tape()
    alone.request(4, 8, 0.1, 12.0)
    assert only(alone.ledger(13, late=10.0), 4, 8).state == State.LATE


def test_a_number_that_comes_again_is_the_life_that_was_queued() -> None:
    tape = Tape()
    tape.life(4, 7, 0.1, 0.2, driver="0000:00:02.0", timeline="[i915]")
    tape.fence("destroy", 0.3, 4, 7, driver="0000:00:02.0", timeline="signaled")
    tape.request(4, 7, 1.0, 1.5)
    roles = [f.role for f in tape.ledger(3).fences]
    assert roles == [Role.OTHER, Role.REQUEST]


def test_a_job_that_cannot_name_its_fence_is_found_by_who_made_it() -> None:
    tape = Tape()
    for number, (begin, pid) in enumerate([(1.0, 3), (1.1, 5), (2.0, 3), (3.0, 3)]):
        tape.request(4, 1 + number, begin, begin + 0.05, pid=pid)
    lines = (
        job_line(None, None, -errno.EIO, job=1, submitted_ns=SECOND - 1000),
        job_line(None, None, 0, job=2, submitted_ns=2 * SECOND - 1000),
        job_line(None, None, 0, job=3, submitted_ns=int(2.5 * SECOND), waited_ns=int(2.6 * SECOND)),
        job_line(None, None, 0, job=4, client=8, submitted_ns=0),
    )
    ledger = tape.ledger(4, jobs=lines)
    rows = ledger.rows_of(lines)
    seqnos = [None if row is None else ledger.fences[row].seqno for row in rows]
    assert seqnos == [1, 3, None, None], "the third waited before anything was made"
    assert only(ledger, 4, 1).error == -errno.EIO


def test_a_driver_s_own_waits_are_waits() -> None:
    tape = Tape()
    tape.request(4, 7, 1.0, 2.0)
    tape.put("i915:i915_request_wait_begin", 1.1, 3, ctx=4, seqno=7, flags=1)
    tape.put("i915:i915_request_wait_end", 2.1, 3)
    tape.put("i915:i915_request_wait_begin", 1.2, 5, ctx=1 << 32 | 4, seqno=7, flags=0)
    # Within dma_fence_wait_timeout() it is that one's.
    who: Any = {"driver": "0000:00:02.0", "timeline": "lab-i915[3]"}
    tape.fence("wait_start", 1.3, 4, 7, pid=6, **who)
    tape.put("i915:i915_request_wait_begin", 1.3, 6, ctx=4, seqno=7, flags=1)
    tape.put("i915:i915_request_wait_end", 2.1, 6)
    tape.fence("wait_end", 2.2, 4, 7, pid=6, **who)
    waits = {wait.pid: wait for wait in tape.ledger(3).waits}
    assert {pid: wait.interruptible for pid, wait in waits.items()} == {3: True, 5: False, 6: None}
    assert {wait.timeline for wait in waits.values()} == {"lab-i915[3]"}
    assert {wait.context for wait in waits.values()} == {4}
    ends = {pid: wait.end for pid, wait in waits.items()}
    assert ends == {3: int(2.1 * SECOND), 5: None, 6: int(2.2 * SECOND)}
