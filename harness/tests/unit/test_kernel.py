"""Kernel text: records, splats, lockdep reports, GPU events."""
# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernel import lockdep, records, resets, splats
from harness.kernel.tail import Tail
from harness.tests.kmsg import of_dmesg, raw, shared

CIRCULAR = """\
[  136.763714] ======================================================
[  136.763714] WARNING: possible circular locking dependency detected
[  136.763715] 6.12.117-lab #1 Not tainted
[  136.763716] ------------------------------------------------------
[  136.763716] kworker/2:3/682 is trying to acquire lock:
[  136.763716] ffffffff8226f140 (console_lock){+.+.}-{0:0}, at: sim_recover.cold+0x7b/0xa0 [amdgpu]
[  136.763723]
               but task is already holding lock:
[  136.763724] ffffffff82318c80 (dma_fence_map){++++}-{0:0}, at: drm_sched_job_timedout+0x25/0xf0 [gpu_sched]
[  136.763726]
               which lock already depends on the new lock.
[  136.763856] Chain exists of:
                 console_lock --> fs_reclaim --> dma_fence_map

[  136.763860] 2 locks held by kworker/2:3/682:
[  136.763862]  #1: ffffc90000cafe58 ((work_completion)(&(&sched->work_tdr)->work)){+.+.}-{0:0}, at: process_one_work+0x1bc/0x580
[  136.763914]
               stack backtrace:
[  136.763919] Call Trace:
[  136.763920]  <TASK>
[  136.763922]  dump_stack+0x8f/0xd0
[  136.763960]  </TASK>
"""


def test_record_fields_and_escapes() -> None:
    stream = (
        b"6,339,5140900,-,caller=T17;one\\x0atwo \\x5cx\n SUBSYSTEM=pci\n30,340,5140901,-;user\n"
    )
    first, second = records.parse(stream)
    assert (first.seq, first.usec, first.level, first.facility) == (339, 5140900, 6, 0)
    assert first.caller == "T17"
    assert first.lines() == ["one", "two \\x"]
    assert (second.facility, second.caller) == (3, "")


def test_record_torn_and_foreign_lines_are_passed_over() -> None:
    stream = b"\x00\xff garbage\n4,1,10,-;whole\n4,2,11,-;\xff\xfe broken utf-8\n4,3"
    assert [r.seq for r in records.parse(stream)] == [1, 2]


def test_gaps_name_what_is_missing() -> None:
    stream = raw(5, 1, "a") + raw(6, 2, "b") + raw(9, 3, "c")
    assert records.gaps(records.parse(stream)) == [(7, 8)]


def test_tail_reads_whole_lines_and_remembers_offsets(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    tail = Tail(path)
    assert list(tail.advance()) == []
    one, two = raw(1, 1, "one"), raw(2, 2, "two")
    path.write_bytes(one + two[:7])
    assert [(r.seq, at) for r, at in tail.advance()] == [(1, 0)]
    path.write_bytes(one + two)
    assert [(r.seq, at) for r, at in tail.advance()] == [(2, len(one))]
    assert [r.seq for r, _ in Tail(path, len(one)).advance()] == [2]


def test_circular_report_is_one_splat_with_its_locks() -> None:
    stream = of_dmesg("[1.000000] before\n" + CIRCULAR + "[  137.000000] after")
    (splat,) = splats.find(records.parse(stream))
    assert splat.kind == "lockdep.circular"
    assert splat.lines[-1] == " </TASK>"
    report = lockdep.parse(splat.lines)
    assert report is not None
    assert str(report.wanted) == "console_lock in sim_recover"
    assert str(report.held) == "dma_fence_map in drm_sched_job_timedout"
    assert report.order == ("console_lock", "fs_reclaim", "dma_fence_map")
    assert report.title == (
        "possible circular locking dependency: console_lock in sim_recover "
        "while holding dma_fence_map in drm_sched_job_timedout"
    )


def test_title_survives_addresses_times_offsets_pids_and_suffixes() -> None:
    other = (
        CIRCULAR.replace("136.7637", "999.7637")
        .replace("ffffffff8226f140", "ffffffffa1234560")
        .replace("sim_recover.cold+0x7b/0xa0", "sim_recover+0x99/0x200")
        .replace("kworker/2:3/682", "kworker/0:1/9")
    )
    one, two = (
        lockdep.parse(splats.find(records.parse(of_dmesg(text)))[0].lines)
        for text in (CIRCULAR, other)
    )
    assert one is not None
    assert two is not None
    assert (one.title, one.key) == (two.title, two.key)


def test_two_cpus_reporting_at_once_do_not_mix() -> None:
    first = [r.text for r in records.parse(of_dmesg(CIRCULAR))]
    warning = [
        "------------[ cut here ]------------",
        "WARNING: CPU: 1 PID: 5 at drivers/gpu/drm/foo.c:12 foo_bar+0x1/0x2 [foo]",
        "Modules linked in: foo",
        "---[ end trace 0000000000000000 ]---",
    ]
    mixed, seq = b"", 0
    for index in range(max(len(first), len(warning))):
        for lines, caller in ((first, "T5"), (warning, "C1")):
            if index < len(lines):
                mixed += raw(seq, 1000 + seq, lines[index], caller)
                seq += 1
    found = {splat.kind: splat for splat in splats.find(records.parse(mixed))}
    assert set(found) == {"lockdep.circular", "warning"}
    assert "foo_bar" not in found["lockdep.circular"].text
    assert "dma_fence_map" not in found["warning"].text
    assert found["warning"].title == "WARNING in foo_bar (drivers/gpu/drm/foo.c)"


def test_hung_task_is_named_by_what_it_waits_in() -> None:
    lines = [
        "INFO: task kworker/u8:0:11 blocked for more than 8 seconds.",
        "      Tainted: G        W  O       6.12.117-lab #1",
        "task:kworker/u8:0    state:D stack:0     pid:11    tgid:11    ppid:2      flags:0x00004000",
        "Call Trace:",
        " <TASK>",
        " __schedule+0x613/0x64e",
        " schedule+0x3e/0x56",
        " schedule_preempt_disabled+0x10/0x20",
        " __mutex_lock+0x354/0x36c",
        " ? remove_wait_queue+0x40/0x40",
        " sim_reset_recover.isra.0+0x33/0x21e [amdgpu]",
        " </TASK>",
    ]
    stream = b"".join(raw(n, n, line) for n, line in enumerate(lines))
    (splat,) = splats.find(records.parse(stream))
    assert splat.title == "INFO: task hung in sim_reset_recover"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("WARNING: possible recursive locking detected", "lockdep.recursive"),
        ("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", "lockdep.irq_unsafe"),
        ("WARNING: kworker/1:2/55 still has locks held!", "lockdep.still_held"),
        ("[ BUG: Invalid wait context ]", "lockdep.wait_context"),
        ("[ INFO: possible circular locking dependency detected ]", "lockdep.circular"),
        ("BUG: MAX_LOCKDEP_CHAINS too low!", "lockdep.off"),
        ("BUG: sleeping function called from invalid context at mm/slab.h:1", "atomic_sleep"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [kworker:3]", "soft_lockup"),
        ("INFO: task kworker/0:1:9 blocked for more than 120 seconds.", "hung_task"),
        ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "rcu.stall"),
        ("BUG: KASAN: slab-use-after-free in foo+0x1/0x2", "kasan"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops.null"),
        ("Kernel panic - not syncing: Fatal exception", "panic"),
        ("BUG: workqueue lockup - pool cpus=0", "workqueue_lockup"),
    ],
)
def test_kinds(line: str, kind: str) -> None:
    (splat,) = splats.find(records.parse(raw(1, 1, line)))
    assert (splat.kind, splat.severity) == (kind, "fail")


@pytest.mark.parametrize(
    "line",
    [
        "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
        "ACPI BIOS Warning (bug): Optional FADT field",
        "amdgpu 0000:00:02.0: amdgpu: GPU reset begin!",
        "lab: start testcases/test_hang.py::test_recovers[BUG: at]",
        "usb 1-1: device descriptor read/64, error -71",
    ],
)
def test_harmless_lines_are_no_splat(line: str) -> None:
    assert splats.find(records.parse(raw(1, 1, line))) == []


def test_userspace_cannot_forge_a_report() -> None:
    forged = raw(1, 1, "WARNING: possible circular locking dependency detected", prefix=12)
    assert splats.find(records.parse(forged)) == []


def test_amdgpu_recovery_steps() -> None:
    log = """\
[  312.522692] amdgpu 0000:28:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=3, emitted seq=4
[  312.774536] amdgpu 0000:28:00.0: amdgpu: GPU reset begin!
[  316.082456] amdgpu 0000:28:00.0: amdgpu: GPU reset succeeded, trying to resume
[  316.182456] amdgpu 0000:28:00.0: amdgpu: GPU reset(2) succeeded!
[  317.182456] amdgpu 0000:28:00.0: amdgpu: GPU reset(3) failed
"""
    found = [(e.step, e.engine) for e in resets.find(records.parse(of_dmesg(log)))]
    assert found == [
        ("hang", "gfx_0.0.0"),
        ("reset-begin", ""),
        ("reset-done", ""),
        ("reset-failed", ""),
    ]


def test_amdgpu_steps_below_a_full_reset() -> None:
    log = """\
[  1.000000] amdgpu 0000:28:00.0: amdgpu: ring comp_1.0.0 timeout, but soft recovered
[  2.000000] amdgpu 0000:28:00.0: ring gfx_0.0.0 timeout, signaled seq=57638, emitted seq=57641
[  2.100000] amdgpu 0000:28:00.0: Starting gfx_0.0.0 ring reset
[  2.200000] amdgpu 0000:28:00.0: Ring gfx_0.0.0 reset succeeded
[  2.300000] amdgpu 0000:28:00.0: [drm] device wedged, but recovered through reset
[  3.000000] amdgpu 0000:28:00.0: ring sdma0 timeout, signaled seq=1, emitted seq=2
[  3.100000] amdgpu 0000:28:00.0: Starting sdma0 ring reset
[  3.200000] amdgpu 0000:28:00.0: Ring sdma0 reset failed
[  3.300000] amdgpu 0000:28:00.0: GPU reset begin!. Source:  1
[  3.400000] amdgpu 0000:28:00.0: GPU reset(4) succeeded!
[  4.000000] amdgpu 0000:28:00.0: Ring sdma1 reset failure
[  5.000000] amdgpu 0000:28:00.0: [drm] device wedged, needs recovery
"""
    found = [(e.step, e.engine) for e in resets.find(records.parse(of_dmesg(log)))]
    assert found == [
        ("soft-recovered", "comp_1.0.0"),
        ("hang", "gfx_0.0.0"),
        ("reset-begin", "gfx_0.0.0"),
        ("reset-done", "gfx_0.0.0"),
        ("hang", "sdma0"),
        ("reset-begin", "sdma0"),
        ("escalated", "sdma0"),
        ("reset-begin", ""),
        ("reset-done", ""),
        ("escalated", "sdma1"),
        ("wedged", ""),
    ]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("dmesg-amdgpu-tdr-samples.txt", {"hang", "reset-begin", "reset-done", "escalated"}),
        ("dmesg-i915-hang-samples.txt", {"hang", "reset-begin"}),
    ],
)
def test_recorded_recoveries(name: str, steps: set[str]) -> None:
    path = shared(f"facts/samples/{name}")
    if not path.exists():
        pytest.skip("the recorded samples are not beside this checkout")
    stream = b"".join(raw(i, i, line) for i, line in enumerate(path.read_text().splitlines()))
    assert steps <= {event.step for event in resets.find(records.parse(stream))}


def test_recorded_console_lock_splat() -> None:
    path = shared("facts/samples/splat-01-amdgpu-console_lock-5.7.txt")
    if not path.exists():
        pytest.skip("the recorded samples are not beside this checkout")
    (splat,) = splats.find(records.parse(of_dmesg(path.read_text())))
    report = lockdep.parse(splat.lines)
    assert report is not None
    assert report.wanted is not None
    assert report.held is not None
    assert report.wanted.name == "console_lock"
    assert report.held.name == "dma_fence_map"
    assert report.order == ("console_lock", "fs_reclaim", "dma_fence_map")
