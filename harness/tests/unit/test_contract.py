"""The contract: each breach is found by name, and nothing healthy is."""

from __future__ import annotations

import errno

import pytest

from harness.evidence.finding import Finding
from harness.evidence.jobs import JobLine
from harness.fence.contract import Rules, check
from harness.fence.fences import State
from harness.tests.tape import SECOND, Tape, job_line

RULES = Rules(
    deadline_ns=5 * SECOND,
    wake_ns=SECOND,
    hang_errors=frozenset({-errno.ETIME, -errno.ECANCELED}),
    user_drivers=frozenset({"sw_sync"}),
)


def found(tape: Tape, last: float = 20.0, jobs: tuple[JobLine, ...] = ()) -> list[Finding]:
    return check(tape.ledger(last, jobs=jobs), RULES)


def titles(findings: list[Finding], severity: str = "fail") -> list[tuple[str, str]]:
    return [(f.kind, f.title) for f in findings if f.severity == severity]


def healthy(*, listen: bool = True) -> Tape:
    """Jobs, a hang that recovery ends, one behind it, and clean ends."""
    tape = Tape()
    for n in range(1, 6):
        tape.job(20, n, (4, n), 1.0 + n / 100, 1.5 + n / 100, listen=listen, pid=0)
    tape.job(20, 6, (4, 6), 2.0, None, listen=listen)
    tape.job(20, 7, (4, 7), 2.1, None, listen=listen)
    tape.put("lab:tdr_begin", 4.0, pid=9)
    for n in (6, 7):
        tape.fence("signaled", 4.1, 4, n, pid=9)
        tape.fence("signaled", 4.1, 21, n, driver="drm_sched", pid=9)
    tape.put("lab:tdr_end", 4.2, pid=9)
    for n in range(1, 8):
        tape.fence("destroy", 5.0, 4, n)
        tape.fence("destroy", 5.0, 20, n, driver="drm_sched")
        tape.fence("destroy", 5.0, 21, n, driver="drm_sched")
    return tape


def test_a_healthy_recovery_is_silent() -> None:
    killed = job_line(21, 6, -errno.ETIME)
    assert found(healthy(), jobs=(killed,)) == []


def test_nothing_traced_is_nothing_broken() -> None:
    assert found(Tape()) == []
    userspace = Tape()
    userspace.life(90, 1, 1.0, None, driver="sw_sync")
    assert found(userspace) == []


def test_a_fence_that_never_signals() -> None:
    tape = healthy()
    tape.job(20, 8, (4, 8), 6.0, None)
    findings = found(tape)
    assert titles(findings) == [
        ("fence-pending", "amdgpu gfx_0.0.0 hw fence never signalled"),
        ("fence-pending", "drm_sched gfx_0.0.0 finished fence never signalled"),
    ]
    assert "born, made by gfx-worker [7]" in findings[0].text
    assert "pending beside it: fences of drm_sched" in findings[0].text


def test_a_fence_that_still_has_time_is_a_note() -> None:
    tape = healthy()
    tape.job(20, 8, (4, 8), 18.0, None)
    assert {f.severity for f in found(tape)} == {"note"}


def test_a_fence_that_signals_only_after_its_deadline() -> None:
    tape = healthy()
    tape.job(20, 8, (4, 8), 6.0, 12.0, pid=0)
    assert titles(found(tape)) == [
        ("fence-late", "amdgpu gfx_0.0.0 hw fence signalled only after its deadline"),
        ("fence-late", "drm_sched gfx_0.0.0 finished fence signalled only after its deadline"),
    ]


def test_a_job_is_owed_its_fence_from_when_it_runs() -> None:
    # It waited its turn for 7 s, which is not the hardware's fault.
    tape = healthy()
    tape.fence("init", 2.2, 20, 8, driver="drm_sched", pid=3)
    tape.fence("init", 2.2, 21, 8, driver="drm_sched", pid=3)
    tape.put("gpu_scheduler:drm_run_job", 9.0, 7)
    tape.fence("init", 9.0, 4, 8, pid=7)
    tape.fence("signaled", 9.0, 20, 8, driver="drm_sched", pid=7)
    tape.fence("signaled", 9.2, 4, 8, pid=0)
    tape.fence("signaled", 9.2, 21, 8, driver="drm_sched", pid=0)
    assert found(tape) == []


def test_nobody_listened_so_nobody_was_failed() -> None:
    # Its driver need not have noticed that it completed: dma_fence_enable_sw_signaling().
    tape = healthy()
    tape.fence("init", 6.0, 90, 1, timeline="ttm")
    tape.fence("init", 6.0, 91, 1, timeline="ttm")
    tape.fence("destroy", 6.5, 91, 1, timeline="ttm")
    assert {(f.kind, f.severity) for f in found(tape)} == {
        ("fence-pending", "note"), ("fence-freed", "note"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "driver", ["sw_sync", "dma_fence_chain", "dma_fence_array"], ids=lambda name: name
)
def test_userspaces_own_fences_and_containers_owe_nothing(driver: str) -> None:
    tape = healthy()
    tape.life(90, 7, 6.0, None, driver=driver)
    tape.life(90, 3, 6.1, None, driver=driver)
    tape.fence("destroy", 7.0, 90, 3, driver=driver)
    assert found(tape) == []


def test_without_a_hook_a_ring_is_always_listened_to() -> None:
    # No enable_signaling, so nothing is traced, and the driver must tell of every one.
    tape = Tape()
    for n in (1, 2, 3):
        tape.job(20, n, (4, n), 1.0 + n, None, listen=False)
    for n in (3, 2):
        tape.fence("signaled", 5.0 - n / 10, 4, n)
        tape.fence("signaled", 5.5 + n / 10, 21, n, driver="drm_sched")
    assert {kind for kind, _ in titles(found(tape))} == {"fence-order", "fence-pending"}


def test_freed_unsignalled_is_told_even_where_the_kernel_is_silent() -> None:
    # No callback: dma_fence_release() does not warn.  On a ring's timeline all are signalled.
    tape = healthy(listen=False)
    tape.fence("init", 6.0, 4, 8)
    tape.fence("destroy", 6.1, 4, 8)
    assert titles(found(tape)) == [("fence-freed", "amdgpu gfx_0.0.0 fence was freed unsignalled")]


def test_a_submission_that_failed_half_way_drops_its_pair() -> None:
    tape = healthy()
    for context in (20, 21):
        tape.fence("init", 6.0, context, 8, driver="drm_sched", pid=3)
    for context in (20, 21):
        tape.fence("destroy", 6.1, context, 8, driver="drm_sched", pid=3)
    assert titles(found(tape)) == []


def test_out_of_order_on_one_timeline() -> None:
    tape = healthy()
    tape.life(4, 8, 6.0, 6.9)
    tape.life(4, 9, 6.1, 6.5)
    findings = found(tape)
    assert titles(findings) == [
        ("fence-order", "amdgpu gfx_0.0.0 fence signalled after a later one of its timeline")
    ]
    assert "amdgpu gfx_0.0.0 4:8" in findings[0].text.split("overtaken by")[0]
    assert "amdgpu gfx_0.0.0 4:9" in findings[0].text.split("overtaken by")[1]


@pytest.mark.parametrize("between", [False, True])
def test_traced_late_by_another_cpu_is_not_out_of_order(between: bool) -> None:
    # CPU 1 set the flag of 8, and stood still before it traced that; CPU 0 saw it and went on.
    tape = healthy()
    tape.fence("init", 6.0, 4, 8, cpu=1)
    tape.fence("enable_signal", 6.0, 4, 8, cpu=1)
    tape.life(4, 9, 6.1, 6.5)
    if between:  # CPU 1 did something else after 9 had signalled: only then it signalled 8
        tape.fence("init", 6.6, 77, 1, driver="sw_sync", cpu=1)
    tape.fence("signaled", 6.9, 4, 8, cpu=1)
    assert [kind for kind, _ in titles(found(tape))] == (["fence-order"] if between else [])


@pytest.mark.parametrize("between", [False, True])
def test_i915_tells_of_all_it_found_complete_last_first(between: bool) -> None:
    # Three contexts on one ring: found complete together, traced in the opposite order.
    tape = healthy()
    for number in (8, 9, 10):
        tape.request(4, number, 6.0 + number / 100, None)
    tape.fence("signaled", 6.50, 4, 10)
    tape.fence("destroy", 6.51, 4, 10)
    tape.fence("signaled", 6.52, 4, 9)
    if between:  # CPU 0 did something else: another round of signals
        tape.fence("init", 6.6, 77, 1, driver="sw_sync")
    tape.fence("signaled", 6.7, 4, 8)
    assert [kind for kind, _ in titles(found(tape))] == (["fence-order"] if between else [])


def test_noticed_late_is_not_out_of_order() -> None:
    # dma_fence_is_signaled() signals as a side effect: of the first nobody had asked.
    tape = healthy()
    tape.fence("init", 6.0, 4, 8)
    tape.life(4, 9, 6.1, 6.5)
    tape.fence("enable_signal", 6.6, 4, 8)
    tape.fence("signaled", 6.6, 4, 8)
    assert found(tape) == []


@pytest.mark.parametrize("start", [(1 << 32) - 3, (1 << 31) - 3, 1])
def test_numbers_may_wrap(start: int) -> None:
    tape = Tape()
    for n in range(6):
        number = (start + n) % (1 << 32)
        tape.life(4, number, 1 + n / 10, 1.05 + n / 10)
    assert found(tape) == []


def test_the_first_of_a_test_follows_the_last_before_it() -> None:
    tape, earlier = Tape(), Tape()
    tape.job(20, 1, (4, 48), 1.0, 1.1)
    earlier.life(4, 48, 0.1, 0.2)
    earlier.life(4, 49, 0.3, 0.4)
    (finding,) = check(tape.ledger(3, before=earlier.recording()), RULES)
    assert finding.kind == "fence-seqno"
    assert "made after number 49 of its timeline" in finding.text
    assert check(tape.ledger(3), RULES) == []


def test_order_is_kept_across_the_wrap() -> None:
    tape = Tape()
    tape.life(4, (1 << 32) - 1, 1.0, 3.0)
    tape.life(4, 0, 1.1, 2.0)
    assert [kind for kind, _ in titles(found(tape))] == ["fence-order"]


@pytest.mark.parametrize("number", [5, 7], ids=["below", "the same again"])
def test_a_number_below_its_predecessors(number: int) -> None:
    tape = healthy()
    tape.life(4, number, 6.0, 6.1, pid=0)
    assert titles(found(tape)) == [
        ("fence-seqno", "amdgpu gfx_0.0.0 fence is not numbered above its predecessor")
    ]


@pytest.mark.parametrize(
    ("error", "kinds"),
    [(0, "has no error"), (-errno.EIO, "ended with EIO"), (-errno.ETIME, "")],
)
def test_what_a_killed_job_ends_with(error: int, kinds: str) -> None:
    job = job_line(21, 6, error)
    told = titles(found(healthy(), jobs=(job,)))
    assert [title for _, title in told if kinds and kinds in title] == [t for _, t in told]
    assert bool(told) == bool(kinds)


def test_a_hang_that_was_released_is_owed_no_error() -> None:
    job = job_line(21, 6, 0, released_ns=3 * SECOND)
    assert found(healthy(), jobs=(job,)) == []


def test_a_waiter_that_is_not_woken() -> None:
    tape = healthy()
    tape.put("lab:wait_begin", 2.2, 11, intr=1)
    tape.fence("wait_start", 2.2, 21, 6, driver="drm_sched", pid=11)
    findings = found(tape)
    assert titles(findings) == [
        (
            "fence-waiter",
            "a waiter slept on after its drm_sched gfx_0.0.0 finished fence had signalled",
        )
    ]
    assert "pid [11] waits interruptibly" in findings[0].text


@pytest.mark.parametrize(("waited", "kinds"), [(3.0, ["fence-waiter"]), (9.9, []), (None, [])])
def test_a_submitters_own_wait_may_be_the_one(waited: float | None, kinds: list[str]) -> None:
    # A wait that began long after the signal and returned at once was not asleep.
    job = job_line(21, 6, -errno.ETIME, timestamp_ns=round(4.1 * SECOND), woken_ns=10 * SECOND,
        waited_ns=None if waited is None else round(waited * SECOND),
    )  # fmt: skip
    assert [kind for kind, _ in titles(found(healthy(), jobs=(job,)))] == kinds


def test_a_task_that_sleeps_uninterruptibly_for_ever() -> None:
    tape = healthy()
    for driver, context, pid in (("i915", 90, 11), ("sw_sync", 91, 12)):
        tape.life(context, 1, 6.0, None, driver=driver, timeline="lab")
        tape.put("lab:wait_begin", 7.0, pid, intr=0)
        tape.fence("wait_start", 7.0, context, 1, driver=driver, pid=pid)
    findings = [f for f in found(tape) if f.kind == "fence-waiter"]
    # Userspace may signal its own when it likes.
    assert {f.title.split()[-3]: f.severity for f in findings} == {
        "i915": "fail",
        "sw_sync": "note",
    }


def test_what_userspace_must_not_see() -> None:
    tape = healthy()
    tape.ioctl(5, 6.0, 6.1, -512)
    tape.ioctl(5, 6.2, 6.3, 0, command=0xC0106444)
    tape.ioctl(6, 6.0, 6.1, -4)
    tape.ioctl(6, 6.2, 6.3, 0)
    tape.ioctl(8, 6.0, 6.1, -512)
    tape.ioctl(8, 6.1, 6.3, 0)
    findings = found(tape)
    assert titles(findings) == [
        ("wait-restart", "ERESTARTSYS reached userspace from a DRM ioctl"),
        ("wait-eintr", "a DRM ioctl returned EINTR although no signal came"),
    ]
    assert titles(findings, "note") == [
        ("wait-restart", "interrupted DRM ioctls were restarted, unnoticed by userspace")
    ]


@pytest.mark.parametrize(("end", "title"), [(None, "did not end"), (14.0, "ended too late")])
def test_a_recovery_beyond_its_bound(end: float | None, title: str) -> None:
    tape = healthy()
    tape.put("lab:tdr_begin", 8.0, pid=9)
    if end is not None:
        tape.put("lab:tdr_end", end, pid=9)
    assert titles(found(tape)) == [("recovery-long", f"a recovery {title}")]


def test_lost_events_make_it_unknown_never_a_pass_nor_a_failure() -> None:
    tape = healthy()
    tape.job(20, 8, (4, 8), 6.0, None)
    tape.lose(7.0, 8.0, 40)
    findings = found(tape)
    assert [(f.kind, f.severity) for f in findings] == [("fence-account", "unknown")]
    assert "40 events between 7.000000 s and 8.000000 s" in findings[0].text


def test_a_loss_excuses_what_it_may_hide() -> None:
    def tape() -> Tape:
        made = healthy()
        made.put("lab:wait_begin", 2.2, 11, intr=1)
        made.fence("wait_start", 2.2, 21, 6, driver="drm_sched", pid=11)
        made.put("lab:tdr_begin", 8.0, pid=9)
        made.ioctl(5, 8.0, 8.1, -4)
        made.ioctl(5, 9.0, 9.1, 0)
        return made

    kinds = {kind for kind, _ in titles(found(tape()))}
    assert kinds == {"fence-waiter", "recovery-long", "wait-eintr"}
    lossy = tape()
    lossy.lose(8.2, 8.3)
    assert titles(found(lossy)) == []


def test_a_trace_that_was_cut_accuses_nobody() -> None:
    tape = healthy()
    tape.job(20, 8, (4, 8), 6.0, None)
    findings = check(tape.ledger(20, cut=True), RULES)
    assert [(f.kind, f.severity) for f in findings] == [("fence-account", "unknown")]


@pytest.mark.parametrize("orphan", [10, 14])
def test_a_resubmission_only_numbers_upwards(orphan: int) -> None:
    # 4:13 never ends; 4:10 was born before the test and does, 4:14 may be what 13 became.
    tape = Tape()
    tape.job(20, 1, (4, 13), 1.0, None)
    tape.fence("signaled", 2.0, 4, orphan, pid=0)
    hw = [f for f in found(tape) if "hw fence never signalled" in f.title]
    assert bool(hw) == (orphan == 10)


def test_only_jobs_timelines_owe_rising_numbers() -> None:
    # virtio-gpu numbers on emit, amdgpu's TLB fences share one.
    tape = healthy()
    for _ in range(2):
        tape.life(70, 0, 6.0, 6.1, driver="virtio_gpu", timeline="controlq")
        tape.life(71, 5, 6.0, 6.1, timeline="amdgpu_tlb_fence")
    states = {f.state for f in tape.ledger(20).fences if f.context in (70, 71)}
    assert states == {State.IN_TIME, State.UNKNOWN}, "whose end it was, nobody knows"
    assert titles(found(tape)) == []


def test_a_job_behind_a_hang_has_its_own_time() -> None:
    # Two on one ring: 4 s for the first, then 4 s for the second, of 5 s each.
    tape = Tape()
    tape.job(20, 1, (4, 1), 1.0, 5.0, pid=0)
    tape.job(22, 1, (4, 2), 1.1, None)
    tape.fence("signaled", 9.0, 4, 2, pid=0)
    tape.fence("signaled", 9.0, 23, 1, driver="drm_sched", pid=0)
    assert found(tape) == []


def test_equal_breaches_are_one_finding() -> None:
    tape = healthy()
    for n in range(8, 18):
        tape.life(4, n, 6.0, None)
    (finding,) = found(tape)
    assert "and 7 more of the same sort" in finding.text
    assert finding.text.count("born, made by") == 3


def test_a_signature_survives_pids_and_numbers() -> None:
    def one(pid: int, context: int) -> str:
        tape = Tape()
        tape.life(context, 3, 1.0, None, driver="i915", timeline=f"python3[{pid}]:{context}")
        (finding,) = found(tape)
        return finding.signature

    assert one(123, 40) == one(4567, 41)


def test_a_device_s_address_is_in_no_title() -> None:
    tape = Tape()
    tape.request(4, 7, 0.0, None, pid=345)
    (finding,) = [f for f in check(tape.ledger(30), RULES) if f.severity == "fail"]
    assert finding.title == "gpu lab-i915 request fence never signalled"
    kernels = Tape()
    kernels.life(4, 8, 0.0, None, driver="0000:00:02.0", timeline="[i915]")
    (finding,) = [f for f in check(kernels.ledger(30), RULES) if f.severity == "fail"]
    assert finding.title == "gpu [i915] fence never signalled"
