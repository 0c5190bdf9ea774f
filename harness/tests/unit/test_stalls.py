"""A recovery that waits for who waits for it: found from the trace, and only then."""

from __future__ import annotations

import re

import pytest

from harness.evidence.finding import Finding
from harness.evidence.snapshot import Snapshot, Task
from harness.fence import deadlock
from harness.fence.ledger import Ledger
from harness.fence.stalls import Behind
from harness.kernel import heldlocks
from harness.tests.tape import SECOND, Tape, job_line

# The kernel's worker that recovers, a display client in its ioctl, a worker that commits.
WORKER, CLIENT, COMMIT = 9, 11, 13
LOCK = 0xFFFF888004A0B2A8
HUNG = (40, 6)


def hang(signaled: float | None = 15.5) -> Tape:
    """A job hung since 1 s, whose recovery begins at 4 s and resets the display first."""
    tape = Tape()
    tape.put("lab:unlock", 0.5, CLIENT, lock=LOCK)
    tape.life(*HUNG, 1.0, signaled, driver="i915", timeline="client[5]", pid=WORKER)
    tape.put("lab:reset_begin", 4.0, WORKER)
    tape.put("lab:display_begin", 4.5, WORKER)
    return tape


def waits(
    tape: Tape, pid: int, begin: float, end: float | None, ret: int = 0, intr: int = 0
) -> None:
    tape.put("lab:wait_begin", begin, pid, intr=intr)
    tape.fence("wait_start", begin, *HUNG, "i915", "client[5]", pid)
    if end is not None:
        tape.fence("wait_end", end, *HUNG, "i915", "client[5]", pid)
        tape.put("lab:wait_end", end, pid, ret=ret)


def call(tape: Tape, stem: str, pid: int, begin: float, end: float | None, **entry: int) -> None:
    tape.put(f"lab:{stem}_begin", begin, pid, **entry)
    if end is not None:
        tape.put(f"lab:{stem}_end", end, pid, ret=0)


def ended(tape: Tape, prepared: float = 14.0) -> Tape:
    tape.put("lab:display_end", prepared, WORKER, ret=0)
    tape.put("lab:reset_end", 16.0, WORKER, ret=0)
    return tape


def modeset(until: float | None = 12.0, ret: int = 0) -> Tape:
    """SETCRTC holds its locks and waits for the hung job until it gives up."""
    tape = hang(None if until is None else 15.5)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    call(tape, "lock", COMMIT, 1.8, 1.8, lock=LOCK + 0x100)
    waits(tape, CLIENT, 2.0, until, ret)
    call(tape, "lock", WORKER, 5.0, None if until is None else until + 0.1, lock=LOCK)
    return tape


def found(tape: Tape, *snapshots: Snapshot, last: float = 20.0) -> list[Finding]:
    return deadlock.check(tape.ledger(last), snapshots, 20 * SECOND)


def one(ledger: Ledger) -> tuple[Behind, float, float | None, int]:
    [stall] = ledger.stalls
    end = None if stall.end is None else stall.end / SECOND
    return stall.behind, stall.begin / SECOND, end, stall.wait.pid


def test_a_modeset_lock_whose_holder_waits_for_the_hung_job() -> None:
    tape = ended(modeset())
    assert one(tape.ledger(20.0)) == (Behind.LOCK, 5.0, 12.1, CLIENT)
    [finding] = found(tape)
    assert (finding.kind, finding.severity) == ("deadlock", "fail")
    assert finding.title == (
        "display reset held up 7.1 s behind a commit that waits for the hung job's fence "
        "while holding the modeset locks"
    )
    assert "kworker/tdr [9] recovers and wants a modeset lock (0xffff888004a0b2a8)" in finding.text
    assert "with 0, the time was up" in finding.text
    assert "the recovery: 4.000000 s to 16.000000 s" in finding.text
    assert "signalled by kworker/tdr [9]" in finding.text
    assert "there are no stacks" in finding.text


def test_tonight_it_is_the_same_finding_though_not_as_long() -> None:
    [longer], [shorter] = found(ended(modeset())), found(ended(modeset(9.0)))
    assert longer.title != shorter.title
    assert longer.signature == shorter.signature


def test_one_that_never_ends() -> None:
    tape = modeset(None)
    [finding] = found(tape)
    assert "held up 15.0 s behind" in finding.title
    assert finding.text.count("still when the test ended") == 2


@pytest.mark.parametrize("where", ["commit", "swap"])
def test_a_commit_that_recovery_waits_for(where: str) -> None:
    tape = hang()
    waits(tape, COMMIT, 2.0, 12.0)
    call(tape, where, WORKER, 5.0, 12.2, commit=LOCK)
    tape.put("lab:commit_done", 12.1, COMMIT)
    ended(tape)
    assert one(tape.ledger(20.0)) == (Behind.COMMIT, 5.0, 12.2, COMMIT)
    [finding] = found(tape)
    assert finding.title == (
        "display reset held up 7.2 s behind a commit that waits for the hung job's fence"
    )


def test_what_a_holder_does_long_after_its_wait_is_not_the_waits() -> None:
    tape = hang(18.0)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 8.0)
    call(tape, "lock", WORKER, 5.0, 14.0, lock=LOCK)
    ended(tape)
    assert one(tape.ledger(20.0)) == (Behind.LOCK, 5.0, 8.0, CLIENT)


def test_who_commits_is_told_though_the_commit_is_never_done() -> None:
    tape = hang(None)
    waits(tape, COMMIT, 2.0, None)
    call(tape, "commit", WORKER, 5.0, None, commit=LOCK)
    assert one(tape.ledger(20.0)) == (Behind.COMMIT, 5.0, None, COMMIT)


def test_its_own_wait_for_the_hung_job() -> None:
    tape = hang()
    waits(tape, WORKER, 4.6, 13.6)
    ended(tape)
    assert one(tape.ledger(20.0)) == (Behind.FENCE, 4.6, 13.6, WORKER)
    [finding] = found(tape)
    assert finding.title == "display reset held up 9.0 s by its own wait for the hung job's fence"


def test_outside_of_the_display_it_is_the_recovery_that_is_held_up() -> None:
    tape = ended(modeset(), 4.6)
    [finding] = found(tape)
    assert finding.title.startswith("recovery held up 7.1 s behind a commit")


def test_a_fence_that_signals_by_itself_is_no_deadlock() -> None:
    """Its job was slow, not hung; recovery was another's."""
    tape = hang(8.0)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 8.0, 500)
    call(tape, "lock", WORKER, 5.0, 8.1, lock=LOCK)
    ended(tape)
    assert len(tape.ledger(20.0).stalls) == 1
    assert found(tape) == []


def test_a_hang_that_is_released_after_all_patience_was_one() -> None:
    tape = hang(29.0)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 29.0, 500)
    call(tape, "lock", WORKER, 5.0, 29.1, lock=LOCK)
    [finding] = found(ended(tape), last=40.0)
    assert "held up 24.1 s" in finding.title


def test_a_commit_that_is_woken_lets_recovery_through() -> None:
    tape = hang(6.0)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 5.3, -512)
    call(tape, "lock", WORKER, 5.0, 5.3, lock=LOCK)
    ended(tape, 5.5)
    assert len(tape.ledger(20.0).stalls) == 1
    assert found(tape) == []


@pytest.mark.parametrize("released", [None, 8 * SECOND])
def test_a_submitter_knows_whether_its_job_hung(released: int | None) -> None:
    tape = hang(8.0)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 8.0, 500)
    call(tape, "lock", WORKER, 5.0, 8.1, lock=LOCK)
    job = job_line(*HUNG, None, released_ns=released)
    findings = deadlock.check(ended(tape).ledger(20.0, jobs=(job,)), (), 20 * SECOND)
    assert len(findings) == (0 if released else 1)


@pytest.mark.parametrize("who", ["nobody waits", "another lock", "no recovery", "lost"])
def test_what_is_not_proven_is_not_said(who: str) -> None:
    tape = Tape() if who == "no recovery" else hang()
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK + (64 if who == "another lock" else 0))
    if who != "nobody waits":
        waits(tape, CLIENT, 2.0, 12.0)
    call(tape, "lock", WORKER, 5.0, 12.1, lock=LOCK)
    if who == "lost":
        tape.lose(7.0, 7.5)
    assert found(ended(tape)) == []


@pytest.mark.parametrize("by", ["unlock", "the ioctl's end"])
@pytest.mark.parametrize("time", [1.95, 4.9, 6.0])
def test_who_let_go_of_the_lock_and_then_waits_holds_nothing_up(by: str, time: float) -> None:
    tape = hang()
    tape.put("raw_syscalls:sys_enter", 1.8, CLIENT, id=16, args=[0] * 6)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    if by == "unlock":
        tape.put("lab:unlock", time, CLIENT, lock=LOCK)
    else:
        tape.put("raw_syscalls:sys_exit", time, CLIENT, id=16, ret=0)
    waits(tape, CLIENT, time + 0.02, 12.0)
    call(tape, "lock", WORKER, 5.0, 12.1, lock=LOCK)
    assert ended(tape).ledger(20.0).stalls == ()


def test_where_nobody_tells_of_unlocks_the_holder_is_a_guess() -> None:
    tape = Tape()
    tape.life(*HUNG, 1.0, 15.5, driver="i915", timeline="client[5]", pid=WORKER)
    tape.put("lab:reset_begin", 4.0, WORKER)
    call(tape, "lock", CLIENT, 1.9, 1.9, lock=LOCK)
    waits(tape, CLIENT, 2.0, 12.0)
    call(tape, "lock", WORKER, 5.0, 12.1, lock=LOCK)
    [finding] = found(ended(tape))
    assert finding.severity == "unknown"


@pytest.mark.parametrize("commits", [True, False])
def test_only_who_commits_may_hold_a_commit_up(commits: bool) -> None:
    tape = hang(None)
    if commits:
        call(tape, "swap", CLIENT, 1.9, 1.95, commit=LOCK)
    waits(tape, CLIENT, 2.0, None)
    call(tape, "commit", WORKER, 5.0, None, commit=LOCK)
    assert len(tape.ledger(20.0).stalls) == commits


HELD = """Showing all locks held in the system:
1 lock held by khungtaskd/25:
 #0: ffffffff8245dd20 (rcu_read_lock){....}-{1:3}, at: debug_show_all_locks+0x2c/0x170
3 locks held by kworker/9:
 #0: ffff888003c51d48 ((wq_completion)events){+.+.}-{0:0}, at: process_one_work+0x190/0x5d0
 #1: ffff888004a0c190 (&dev->mode_config.mutex){+.+.}-{4:4}, at: reset_prepare+0x5d/0x110 [x]
 #2: ffff888004a0b310 (crtc_ww_class_mutex){+.+.}-{4:4}, at: drm_modeset_lock+0x19/0x20
2 locks held by lab-kms/11:
 #0: ffffc900004efb58 (crtc_ww_class_acquire){+.+.}-{0:0}, at: drm_mode_setcrtc+0x180/0x810
 #1: ffff888004a0b310 (crtc_ww_class_mutex){+.+.}-{4:4}, at: drm_modeset_lock+0x19/0x20

=============================================
"""


def test_stacks_and_locks_are_those_of_the_two() -> None:
    tasks = (
        Task(WORKER, "kworker/tdr", "D", "[<0>] drm_modeset_lock+0x19/0x20\n[<0>] heartbeat+0x1"),
        Task(CLIENT, "lab-kms", "D", "[<0>] intel_atomic_commit_tail+0x5d/0x110"),
        Task(77, "other", "D", "[<0>] elsewhere+0x1/0x2"),
    )
    early, within = Snapshot(2 * SECOND, locks="?"), Snapshot(6 * SECOND, 0, tasks, HELD)
    [finding] = found(ended(modeset()), early, within)
    assert "at 6.000000 s, 1.0 s into it:" in finding.text
    assert "[<0>] heartbeat+0x1" in finding.text
    assert "intel_atomic_commit_tail" in finding.text
    assert "elsewhere" not in finding.text
    assert "what recovery wants, crtc_ww_class_mutex ffff888004a0b310, the other one holds" in (
        finding.text
    )


def test_hidden_addresses_tell_no_lock_from_another() -> None:
    tasks = (Task(WORKER, "kworker/tdr", "D", ""), Task(CLIENT, "lab-kms", "D", ""))
    hidden = re.sub("ffff[0-9a-f]{12}", "(____ptrval____)", HELD)
    other = hidden.replace("crtc_ww_class_mutex", "fs_reclaim", 1)
    early = Snapshot(2 * SECOND, locks="?")
    [same] = found(ended(modeset()), early, Snapshot(6 * SECOND, 0, tasks, hidden))
    assert "what recovery wants, crtc_ww_class_mutex (____ptrval____), the other" in same.text
    [apart] = found(ended(modeset()), early, Snapshot(6 * SECOND, 0, tasks, other))
    assert "holds or wants fs_reclaim (____ptrval____)" in apart.text
    assert "the other one holds" not in apart.text


def test_held_locks_are_read_by_task() -> None:
    held = heldlocks.parse(HELD.splitlines())
    assert {pid: len(locks) for pid, locks in held.items()} == {25: 1, 9: 3, 11: 2}
    assert held[9][1] == ("&dev->mode_config.mutex", "ffff888004a0c190", "reset_prepare+0x5d/0x110")
    hidden = heldlocks.parse(HELD.replace("ffff888004a0c190", "(____ptrval____)").splitlines())
    assert hidden[9][1].address == "(____ptrval____)"
    assert heldlocks.parse(["INFO: lockdep is turned off.", " #0: cut"]) == {}
