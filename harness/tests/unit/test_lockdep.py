"""Lockdep reports of all generations: parsed, their cycle, and what it means for fences."""
# ruff: noqa: E501

from __future__ import annotations

import random

import pytest

from harness.kernel import cycle, diagnosis, lockdep
from harness.kernel.lockdep import Report, Step
from harness.kernel.lockdep_lines import joined, lock_in, named, plumbing
from harness.tests.kmsg import shared

# As Linux 6.12 prints it; recovery takes console_lock in the annotated section.
FENCED = """\
======================================================
WARNING: possible circular locking dependency detected
6.12.117-lab #1 Not tainted
------------------------------------------------------
kworker/2:3/682 is trying to acquire lock:
ffffffff8226f140 (console_lock){+.+.}-{0:0}, at: foo_suspend.cold+0x7b/0xa0 [foo]

but task is already holding lock:
ffffffff82318c80 (dma_fence_map){++++}-{0:0}, at: drm_sched_job_timedout+0x25/0xf0 [gpu_sched]

which lock already depends on the new lock.

the existing dependency chain (in reverse order) is:

-> #2 (dma_fence_map){++++}-{0:0}:
       __dma_fence_might_wait+0x41/0xb0
       dma_resv_lockdep+0x171/0x202
       do_one_initcall+0x5d/0x2f0

-> #1 (fs_reclaim){+.+.}-{0:0}:
       fs_reclaim_acquire.part.0+0x25/0x30
       kmalloc_trace+0x2e/0x6e0
       device_create+0x49/0x60
       fb_console_init+0x25/0x145

-> #0 (console_lock){+.+.}-{0:0}:
       __lock_acquire+0x1241/0x23f0
       lock_acquire+0xad/0x370
       console_lock+0x47/0x70
       foo_suspend.cold+0x7b/0xa0 [foo]
       foo_recover+0x21e/0xe7b [foo]
       drm_sched_job_timedout+0x8a/0xf0 [gpu_sched]
       process_one_work+0x23c/0x580

other info that might help us debug this:

Chain exists of:
  console_lock --> fs_reclaim --> dma_fence_map

 Possible unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  rlock(dma_fence_map);
                               lock(fs_reclaim);
                               lock(dma_fence_map);
  lock(console_lock);

 *** DEADLOCK ***

2 locks held by kworker/2:3/682:
 #0: ffff8887fb81c938 ((wq_completion)events){+.+.}-{0:0}, at: process_one_work+0x1bc/0x580
 #1: ffffffff82318c80 (dma_fence_map){++++}-{0:0}, at: drm_sched_job_timedout+0x25/0xf0 [gpu_sched]

stack backtrace:
CPU: 2 UID: 0 PID: 682 Comm: kworker/2:3 Not tainted 6.12.117-lab #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x8f/0xd0
 check_noncircular+0x162/0x180
 ? foo_suspend.cold+0x7b/0xa0 [foo]
 foo_suspend.cold+0x7b/0xa0 [foo]
 </TASK>
"""
# As Linux 3.4 printed one: no addresses, six usage characters, spinlocks within a map.
OLD = """\
=======================================================
[ INFO: possible circular locking dependency detected ]
3.4.0-rc5 #26 Not tainted
-------------------------------------------------------
kworker/0:2/1391 is trying to acquire lock:
 (&(&foo->lock)->rlock#2){+.+.+.}, at: [<bf28ae00>] foo_restore+0x34/0x418 [foo]

but task is already holding lock:
 ((foo_timeout).work){+.+...}, at: [<c0059e94>] process_one_work+0x1f0/0x480

which lock already depends on the new lock.

the existing dependency chain (in reverse order) is:

-> #1 ((foo_timeout).work){+.+...}:
       [<c0090d40>] lock_acquire+0xf0/0x114
       [<c005c000>] __cancel_work_timer+0xd4/0x11c
       [<bf28b274>] foo_set+0x50/0x78 [foo]

-> #0 (&(&foo->lock)->rlock#2){+.+.+.}:
       [<c04734dc>] _raw_spin_lock+0x48/0x320
       [<bf28ae00>] foo_restore+0x34/0x418 [foo]

other info that might help us debug this:

 Possible unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock((foo_timeout).work);
                               lock(&(&foo->lock)->rlock#2);
                               lock((foo_timeout).work);
  lock(&(&foo->lock)->rlock#2);
"""


def parsed(text: str) -> Report:
    report = lockdep.parse(text.split("\n"))
    assert report is not None
    return report


def classes(text: str) -> tuple[str, ...]:
    found = cycle.cycle_of(parsed(text))
    assert found is not None
    return found.classes


def test_circular_report_in_all_its_parts() -> None:
    report = parsed(FENCED)
    assert (report.kind, report.task) == ("lockdep.circular", "kworker/2:3/682")
    wanted, held = report.wanted, report.held
    assert wanted is not None
    assert held is not None
    assert (wanted.name, wanted.usage, wanted.wait) == ("console_lock", "+.+.", (0, 0))
    assert (wanted.instance, wanted.where, wanted.module) == (
        "ffffffff8226f140", "foo_suspend", "foo",
    )  # fmt: skip
    assert (held.name, held.where) == ("dma_fence_map", "drm_sched_job_timedout")
    assert [(link.depth, link.lock.name) for link in report.links] == [
        (2, "dma_fence_map"),
        (1, "fs_reclaim"),
        (0, "console_lock"),
    ]
    assert [len(link.frames) for link in report.links] == [3, 4, 7]
    assert report.order == ("console_lock", "fs_reclaim", "dma_fence_map")
    assert report.scenario == [
        Step(0, "rlock", "dma_fence_map"),
        Step(1, "lock", "fs_reclaim"),
        Step(1, "lock", "dma_fence_map"),
        Step(0, "lock", "console_lock"),
    ]
    (holder,) = report.holders
    assert holder.task == report.task
    assert [lock.name for lock in holder.locks] == ["(wq_completion)events", "dma_fence_map"]
    assert [frame.function for frame in report.backtrace][-1] == "foo_suspend"
    assert report.title == (
        "possible circular locking dependency: console_lock in foo_suspend "
        "while holding dma_fence_map in drm_sched_job_timedout"
    )


def test_old_kernels_report() -> None:
    report = parsed(OLD)
    wanted = report.wanted
    assert wanted is not None
    assert (wanted.name, wanted.version, wanted.wait) == ("&(&foo->lock)->rlock", 2, None)
    assert wanted.key == "&foo->lock"
    assert classes(OLD) == ("&(&foo->lock)->rlock", "(foo_timeout).work")
    assert diagnosis.driver_of([link.frames for link in report.links]) == "foo"


def test_report_that_came_through_rsyslog() -> None:
    lines = [line for line in OLD.split("\n") if line]
    for n, line in enumerate(lines):
        if line.startswith(("but task", "which lock", "the existing", "-> #", "other info")):
            lines[n] = f"#012{line}"
    report = lockdep.parse(lines)
    assert report is not None
    assert report.key == parsed(OLD).key
    assert cycle.cycle_of(report) == cycle.cycle_of(parsed(OLD))


def test_cycle_is_told_from_the_fence_on_with_the_path_of_each_turn() -> None:
    found = cycle.cycle_of(parsed(FENCED))
    assert found is not None
    assert found.complete
    assert found.classes == ("console_lock", "fs_reclaim", "dma_fence_map")
    assert cycle.text(found).split("\n") == [
        "   dma_fence_map",
        "-> console_lock   drm_sched_job_timedout > foo_recover > foo_suspend (this report)",
        "-> fs_reclaim     fb_console_init > device_create",
        "-> dma_fence_map  boot priming",
    ]
    assert [(held.lock.name, taken.lock.name) for held, taken in found.edges()] == [
        ("dma_fence_map", "console_lock"),
        ("console_lock", "fs_reclaim"),
        ("fs_reclaim", "dma_fence_map"),
    ]


def test_report_cut_before_its_chain_gives_a_cycle_that_says_so() -> None:
    cut = cycle.cycle_of(parsed(FENCED.partition("which lock already")[0]))
    assert cut is not None
    assert not cut.complete
    assert cut.classes == ("console_lock", "...", "dma_fence_map")
    assert "cut" in cycle.text(cut)


def test_lost_link_is_filled_in_from_what_the_report_says_elsewhere() -> None:
    before, _, rest = FENCED.partition("-> #1 ")
    whole = before + "-> #0 " + rest.partition("-> #0 ")[2]
    assert classes(whole) == ("console_lock", "fs_reclaim", "dma_fence_map")


@pytest.mark.parametrize("length", range(0, len(FENCED), 97))
def test_report_cut_anywhere_is_read_as_far_as_it_goes(length: int) -> None:
    report = lockdep.parse(FENCED[:length].split("\n"))
    if report is None:
        assert "dependency detected" not in FENCED[:length]
    else:
        assert report.title.startswith("possible circular locking dependency")
        assert diagnosis.explain(report) or report.held is None


@pytest.mark.parametrize(
    ("printed", "name", "version", "subclass", "key"),
    [
        ("console_lock", "console_lock", 1, 0, "console_lock"),
        ("&pipe->mutex/1", "&pipe->mutex", 1, 1, "&pipe->mutex/1"),
        ("&lo->lo_mutex#2", "&lo->lo_mutex", 2, 0, "&lo->lo_mutex"),
        ("&s->s_umount_key#23/1", "&s->s_umount_key", 23, 1, "&s->s_umount_key/1"),
        (
            "(work_completion)(&(&sched->work_tdr)->work)",
            "(work_completion)(&(&sched->work_tdr)->work)", 1, 0,
            "(work_completion)(&(&sched->work_tdr)->work)",
        ),
        ("(wq_completion)events", "(wq_completion)events", 1, 0, "(wq_completion)events"),
        ('(wq_completion)"events"', '(wq_completion)"events"', 1, 0, "(wq_completion)events"),
        ('(wq_completion)"%s"("hci7")', '(wq_completion)"%s"("hci7")', 1, 0, "(wq_completion)hciN"),
        ("&(&p->lock)->rlock/1", "&(&p->lock)->rlock", 1, 1, "&p->lock/1"),
        ("&dev->mode_config.mutex", "&dev->mode_config.mutex", 1, 0, "&dev->mode_config.mutex"),
        ("cpuhp_state-up", "cpuhp_state-up", 1, 0, "cpuhp_state-up"),
    ],
)  # fmt: skip
def test_class_names(printed: str, name: str, version: int, subclass: int, key: str) -> None:
    for line in (
        f" #3: ffff88810c1d2a60 ({printed}){{+.+.}}-{{3:3}}, at: foo_bar+0x1/0x2",
        f" ({printed}){{+.+.+.}}, at: [<ffffffff8232bf0e>] foo_bar+0x1/0x2",
        f"00000000cf45dbdb ({printed}){{++++}}, at: foo_bar.isra.0+0x1/0x2 foo/bar.c:12",
        f"(____ptrval____) ({printed}){{..-.}}-{{2:2}}, at: foo_bar (foo/bar.c:1 (discriminator 2)) ",
    ):
        lock = lock_in(line)
        assert lock is not None
        assert (lock.name, lock.version, lock.subclass) == (name, version, subclass), line
        assert lock.key == key
        assert lock.where == "foo_bar"
    assert named(printed).name == name


def test_lines_in_pieces_are_put_together() -> None:
    pieces = [
        "eae3453c (&p->pi_lock",
        "){-.-.}, at: try_to_wake_up+0x4c/0xd30",
        "",
        "-> #1",
        " (",
        "(console_sem).lock",
        "){-.-.}-{2:2}",
        ":",
        "       up+0x1c/0xf0",
        "Chain exists of:",
        "  &p->pi_lock",
        " --> ",
        "&rq->lock",
        " --> (console_sem).lock",
        "",
        "  lock(",
        "&rq->lock",
        ");",
    ]
    whole = joined(pieces)
    assert whole == [
        "eae3453c (&p->pi_lock){-.-.}, at: try_to_wake_up+0x4c/0xd30",
        "",
        "-> #1 ((console_sem).lock){-.-.}-{2:2}",
        ":",
        "       up+0x1c/0xf0",
        "Chain exists of:",
        "  &p->pi_lock --> &rq->lock --> (console_sem).lock",
        "",
        "  lock(&rq->lock);",
    ]


def test_stack_lines_are_no_pieces_of_a_lock() -> None:
    lines = ["(not a lock", " foo+0x1/0x2", "-> #0 (a){+.+.}:"]
    assert joined(lines) == lines


RECURSIVE = """\
============================================
WARNING: possible recursive locking detected
6.19.0 #16 Tainted: G     U     OE
--------------------------------------------
kworker/15:1/158 is trying to acquire lock:
ffff8f2854b3d110 (&m->mutex){+.+.}-{4:4}, at: foo_destroy+0x57/0x540 [foo]

but task is already holding lock:
ffff8f2854b3d110 (&m->mutex){+.+.}-{4:4}, at: foo_suspend_worker+0x31/0xc0 [foo]

other info that might help us debug this:
 Possible unsafe locking scenario:

       CPU0
       ----
  lock(&m->mutex);
  lock(&m->mutex);

2 locks held by kworker/15:1/158:
 #0: ffff8f2854b3d110 (&m->mutex){+.+.}-{4:4}, at: foo_suspend_worker+0x31/0xc0 [foo]
 #1: ffffffffb8d3f700 (dma_fence_map){++++}-{0:0}, at: foo_suspend_worker+0x36/0xc0 [foo]
"""
INVERSION = """\
=====================================================
WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected
4.14.176 #0 Not tainted
-----------------------------------------------------
foo.5/31323 [HC0[0]:SC0[0]:HE0:SE1] is trying to acquire:
 (&(&info->lock)->rlock){+.+.}, at: [<ffffffff8174eed4>] foo_uncharge+0x24/0x250

and this task is already holding:
 (&(&tree->lock)->rlock){-.-.}, at: [<ffffffff81861f78>] foo_split+0x548/0x1f40
which would create a new lock dependency:
 (&(&tree->lock)->rlock){-.-.} -> (&(&info->lock)->rlock){+.+.}

but this new dependency connects a HARDIRQ-irq-safe lock:
 (&(&tree->lock)->rlock){-.-.}

... which became HARDIRQ-irq-safe at:
  lock_acquire+0x170/0x3f0
  _raw_spin_lock_irqsave+0x8c/0xbf
  foo_endio+0x199/0xc20
  do_IRQ+0x93/0x1d0

to a HARDIRQ-irq-unsafe lock:
 (&(&info->lock)->rlock){+.+.}

... which became HARDIRQ-irq-unsafe at:
...
  lock_acquire+0x170/0x3f0
  foo_alloc+0x1/0x2

other info that might help us debug this:

 Possible interrupt unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock(&(&info->lock)->rlock);
                               local_irq_disable();
                               lock(&(&tree->lock)->rlock);
                               lock(&(&info->lock)->rlock);
  <Interrupt>
    lock(&(&tree->lock)->rlock);

 *** DEADLOCK ***
"""


def test_recursion_inside_a_section_is_told_as_such() -> None:
    report = parsed(RECURSIVE)
    found = diagnosis.diagnose(report)
    assert classes(RECURSIVE) == ("&m->mutex",)
    assert found is not None
    assert (found.takes, found.driver) == ("lock", "foo")
    assert "holds one such already, since foo_suspend_worker" in found.text
    assert "inside a fence-signalling section" in found.text


def test_wait_context_is_read() -> None:
    report = parsed(
        "[ BUG: Invalid wait context ]\nfoo/1 is trying to lock:\n"
        "ffff8881 (&x->mutex){+.+.}-{3:3}, at: foo_take+0x1/0x2\n"
        "other info that might help us debug this:\ncontext-{5:5}\n"
    )
    assert report.context == (5, 5)
    assert report.wanted is not None
    assert report.wanted.wait == (3, 3)


def test_cycle_through_an_interrupt() -> None:
    report = parsed(INVERSION)
    assert report.kind == "lockdep.irq_unsafe"
    assert report.order == ("&(&tree->lock)->rlock", "&(&info->lock)->rlock")
    assert [(step.cpu, step.does) for step in report.scenario] == [
        (0, "lock"), (1, "local_irq_disable"), (1, "lock"), (1, "lock"), (0, "<Interrupt>"),
        (0, "lock"),
    ]  # fmt: skip
    found = cycle.cycle_of(report)
    assert found is not None
    assert found.classes == ("&(&tree->lock)->rlock", "&(&info->lock)->rlock")
    assert [turn.interrupt for turn in found.turns] == [True, False]
    assert [(what, len(frames)) for what, frames in report.became] == [
        ("HARDIRQ-irq-safe", 4),
        ("HARDIRQ-irq-unsafe", 2),
    ]
    assert "in an interrupt do_IRQ > foo_endio" in cycle.text(found)


@pytest.mark.parametrize(
    ("text", "kind", "title"),
    [
        (
            "WARNING: inconsistent lock state\n"
            "inconsistent {IN-HARDIRQ-W} -> {HARDIRQ-ON-W} usage.\n"
            "foo.4/3879 [HC0[0]:SC0[0]:HE0:SE1] takes:\n"
            "ffff888114ca0920 (&p->pi_lock){?.-.}-{2:2}, at: foo_block+0x231/0x342",
            "lockdep.inconsistent",
            "inconsistent lock state: &p->pi_lock in foo_block, {IN-HARDIRQ-W} -> {HARDIRQ-ON-W}",
        ),
        (
            "[ BUG: Invalid wait context ]\n"
            "foo/1 is trying to lock:\n"
            "ffff888 (&x->mutex){+.+.}-{3:3}, at: foo_take+0x1/0x2",
            "lockdep.wait_context",
            "Invalid wait context: &x->mutex in foo_take",
        ),
        (
            "[ BUG: bad unlock balance detected! ]\n"
            "foo/1081 is trying to release lock (&x->lock) at:\n"
            "[<ffffffff834dea24>] foo_stop+0xe4/0x140\n"
            "but there are no more locks to release!",
            "lockdep.bad_unlock",
            "bad unlock balance: &x->lock in foo_stop",
        ),
        (
            "WARNING: held lock freed!\n"
            "foo/8559 is freeing memory ffff88809faed2c0-ffff88809faedabf, with a lock still held there!\n"
            "00000000cf45dbdb (sk_lock-AF_X){+.+.}, at: foo_release+0x11a/0x3b0",
            "lockdep.held_freed",
            "held lock freed: sk_lock-AF_X in foo_release",
        ),
        (
            "WARNING: foo-bar286/6054 still has locks held!\n"
            "1 lock held by foo-bar286/6054:\n"
            " #0: 000000009ccdb9e0 (&sig->guard){+.+.}, at: foo_prepare+0x53/0x120",
            "lockdep.still_held",
            "locks still held: &sig->guard in foo_prepare",
        ),
        (
            "[ BUG: lock held when returning to user space! ]\n"
            "foo/8384 is leaving the kernel with locks still held!\n"
            "1 lock held by foo/8384:\n"
            " #0:  (sk_lock-AF_X){+.+.+.}, at: [<ffffffff82b9503f>] foo_send+0x2f/0x550",
            "lockdep.still_held",
            "lock held when returning to user space: sk_lock-AF_X in foo_send",
        ),
        (
            "WARNING: suspicious RCU usage\n"
            "drivers/foo/bar.c:12 suspicious rcu_dereference_check() usage!\n"
            "stack backtrace:\n"
            " dump_stack+0x1/0x2\n lockdep_rcu_suspicious+0x3/0x4\n foo_find+0x5/0x6",
            "rcu.suspicious",
            "suspicious RCU usage in foo_find",
        ),
        (
            "INFO: trying to register non-static key.\n"
            "the code is fine but needs lockdep annotation.\n"
            "Call Trace:\n"
            " register_lock_class+0x1/0x2\n _raw_spin_lock_irqsave+0x3/0x4\n foo_detach+0x5/0x6",
            "lockdep.nonstatic_key",
            "trying to register non-static key in foo_detach",
        ),
        (
            "------------[ cut here ]------------\n"
            "DEBUG_LOCKS_WARN_ON(hlock->references < references)\n"
            "WARNING: CPU: 0 PID: 9 at kernel/locking/lockdep.c:5096 __lock_acquire+0x1/0x2\n"
            "1 lock held by foo/9:\n"
            " #0: ffff8880 (&x->mutex){+.+.}-{3:3}, at: foo_begin+0x1/0x2\n"
            "Call Trace:\n lock_acquire+0x1/0x2\n __ww_mutex_lock+0x1/0x2\n foo_evict+0x5/0x6 [foo]",
            "lockdep.internal",
            "DEBUG_LOCKS_WARN_ON(hlock->references < references) in foo_evict",
        ),
        ("BUG: MAX_LOCKDEP_CHAINS too low!", "lockdep.off", "MAX_LOCKDEP_CHAINS too low"),
        ("BUG: key ffff8880 has not been registered!", "lockdep.internal", "a lock's key is not registered"),
        (
            "WARNING: Nested lock was not taken\n"
            "foo/1 is trying to lock:\n"
            "ffff888810 (&x->mutex){+.+.}-{3:3}, at: foo_take+0x1/0x2\n\n"
            "but this task is not holding:\nfoo_ww_class",
            "lockdep.nested",
            "Nested lock was not taken: &x->mutex in foo_take",
        ),
    ],
)  # fmt: skip
def test_every_kind(text: str, kind: str, title: str) -> None:
    report = parsed(text)
    assert (report.kind, report.title) == (kind, title)


@pytest.mark.parametrize(
    "text",
    [
        "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
        "lockdep is turned off",
        "foo: possible circular argument",
        "",
        "\x00\ufffd",
    ],
)
def test_what_is_no_report(text: str) -> None:
    assert lockdep.parse(text.split("\n")) is None


@pytest.mark.parametrize(
    ("lock", "takes", "words"),
    [
        ("console_lock", "console_lock", "takes console_lock inside"),
        ("crtc_ww_class_acquire", "modeset locks", "takes the modeset locks"),
        ("&dev->mode_config.mutex", "modeset locks", "takes the modeset locks"),
        ("reservation_ww_class_mutex", "dma_resv", "takes a dma_resv lock"),
        ("fs_reclaim", "allocates", "allocates memory"),
        ("mmu_notifier_invalidate_range_start", "MMU notifier", "calls MMU notifiers"),
        ("(work_completion)(&x->work)", "waits for work", "waits for work to end"),
        ("&adev->lock", "lock", "takes &adev->lock inside"),
    ],
)
def test_diagnosis_says_what_recovery_does(lock: str, takes: str, words: str) -> None:
    found = diagnosis.diagnose(parsed(FENCED.replace("console_lock)", f"{lock})")))
    assert found is not None
    assert (found.takes, found.driver) == (takes, "foo")
    assert found.text.startswith(
        "Recovery in foo (drm_sched_job_timedout > foo_recover > foo_suspend) "
    )
    assert words in found.text
    assert "fb_console_init > device_create allocates memory" in found.text
    assert "boot priming, dma_resv_lockdep" in found.text


def test_a_real_wait_for_a_fence_is_not_boot_priming() -> None:
    waits = FENCED.replace("dma_resv_lockdep+", "dma_fence_wait_timeout+").replace(
        "do_one_initcall+0x5d/0x2f0", "foo_wait_ioctl+0x1/0x2 [foo]", 1
    )
    found = diagnosis.diagnose(parsed(waits))
    assert found is not None
    assert "With fs_reclaim held, foo_wait_ioctl waits for a fence." in found.text
    assert "boot priming" not in found.text


def test_priming_is_no_part_of_the_key() -> None:
    primed = FENCED.replace("drm_sched_job_timedout+0x25/0xf0", "dma_resv_lockdep+0x25/0xf0")
    assert not any("lockdep" in part for part in parsed(primed).key[1:])


def test_allocation_is_named_by_who_allocates() -> None:
    at = FENCED.replace("(console_lock)", "(fs_reclaim)").replace(
        "at: foo_suspend.cold+0x7b/0xa0 [foo]", "at: __kmalloc+0x4d/0x330"
    ).replace("       console_lock+0x47/0x70", "       __kmalloc+0x4d/0x330\n       kstrdup+0x1/0x2")  # fmt: skip
    report = parsed(at)
    assert report.wanted_in == "foo_suspend"
    assert report.functions == ("foo_suspend", "drm_sched_job_timedout", "__kmalloc")


def test_plumbing_is_what_nobody_names() -> None:
    names = ("__mutex_lock", "_raw_spin_lock_irqsave", "kmem_cache_alloc_noprof", "might_alloc")
    assert all(plumbing(name) for name in names)
    assert not any(plumbing(name) for name in ("amdgpu_job_timedout", "lock_sock_nested_foo"))


@pytest.mark.parametrize(
    ("name", "takes", "driver"),
    [
        ("splat-01-amdgpu-console_lock-5.7.txt", "console_lock", "amdgpu"),
        ("splat-03-i915-capture-fs_reclaim-5.15.txt", "allocates", "i915"),
        ("splat-05-amdgpu-userq-recursive-6.19.txt", "lock", "amdgpu"),
    ],
)
def test_recorded_reports(name: str, takes: str, driver: str) -> None:
    path = shared(f"facts/samples/{name}")
    if not path.exists():
        pytest.skip("the recorded samples are not beside this checkout")
    lines = [line.partition("] ")[2] or line for line in path.read_text().split("\n")]
    report = lockdep.parse(lines)
    assert report is not None
    found = diagnosis.diagnose(report)
    assert found is not None
    assert (found.takes, found.driver) == (takes, driver)
    whole = cycle.cycle_of(report)
    assert whole is not None
    assert whole.complete


def mangled(text: str, rng: random.Random) -> list[str]:
    """What a bad serial line, lost records and another CPU make of a report."""
    lines = text.split("\n")
    way = rng.randrange(5)
    if way == 0:
        return [line for line in lines if rng.random() > 0.1]
    if way == 1:
        rng.shuffle(lines)
    elif way == 2:
        other = OLD.split("\n")
        return [line for n, own in enumerate(lines) for line in (own, other[n % len(other)])]
    elif way == 3:
        return [line[: rng.randrange(len(line) + 1)] for line in lines]
    else:
        return [
            "".join(c if rng.random() > 0.02 else chr(rng.randrange(0x2FF)) for c in line)
            for line in lines
        ]
    return lines


@pytest.mark.parametrize("seed", range(200))
def test_mangled_reports_are_read_without_an_exception(seed: int) -> None:
    rng = random.Random(seed)
    report = lockdep.parse(mangled(rng.choice([FENCED, OLD, RECURSIVE, INVERSION]), rng))
    if report is not None:
        found = cycle.cycle_of(report)
        assert report.title.startswith(report.what)
        assert (diagnosis.diagnose(report) is None) == (found is None)
        assert found is None or all(turn.lock.label for turn in found.turns)
