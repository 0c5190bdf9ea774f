"""Whole kernel reports, as lists of lines, for tests that print them in many ways."""
# ruff: noqa: E501

from __future__ import annotations

__all__ = ["CIRCULAR", "HUNG", "KASAN", "NULL", "REPORTS", "STALL", "WARN", "printed"]

_DUMP = "CPU: 1 PID: 7 Comm: kworker/1:0 Not tainted 6.12.0 #1"

CIRCULAR = [
    "======================================================",
    "WARNING: possible circular locking dependency detected",
    "6.12.0 #1 Not tainted",
    "------------------------------------------------------",
    "kworker/1:0/7 is trying to acquire lock:",
    "ffffffff8226f140 (console_lock){+.+.}-{0:0}, at: sim_show+0x7b/0xa0 [sim]",
    "",
    "but task is already holding lock:",
    "ffffffff82318c80 (dma_fence_map){++++}-{0:0}, at: sim_timedout+0x25/0xf0 [sim]",
    "",
    "which lock already depends on the new lock.",
    "",
    "stack backtrace:",
    _DUMP,
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x57/0x72",
    " lock_acquire+0xad/0x370",
    " sim_show+0x7b/0xa0 [sim]",
    " sim_recover+0x21e/0xe7b [sim]",
    " </TASK>",
]
WARN = [
    "------------[ cut here ]------------",
    "WARNING: CPU: 1 PID: 7 at drivers/gpu/drm/sim.c:12 sim_free+0x1/0x2 [sim]",
    "Modules linked in: sim",
    _DUMP,
    "RIP: 0010:sim_free+0x1/0x2 [sim]",
    "Call Trace:",
    " <TASK>",
    " sim_close+0x1/0x2 [sim]",
    " </TASK>",
    "---[ end trace 0000000000000000 ]---",
]
NULL = [
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "#PF: supervisor read access in kernel mode",
    "Oops: 0000 [#1] PREEMPT SMP NOPTI",
    _DUMP,
    "RIP: 0010:sim_irq+0x14/0x28",
    "Code: 0f 0b",
    "Call Trace:",
    " <TASK>",
    " sim_work+0x14/0x28",
    " </TASK>",
    "---[ end trace 0000000000000000 ]---",
]
KASAN = [
    "==================================================================",
    "BUG: KASAN: slab-use-after-free in sim_read+0x214/0x220",
    "Read of size 4 at addr ffff8881143a9810 by task bash/5320",
    "",
    _DUMP,
    "Call Trace:",
    " <TASK>",
    " kasan_report+0x106/0x140",
    " sim_read+0x214/0x220",
    " </TASK>",
    "",
    "Freed by task 5320:",
    " kfree+0x106/0x140",
    "==================================================================",
]
HUNG = [
    "INFO: task sim:12 blocked for more than 120 seconds.",
    "      Not tainted 6.12.0 #1",
    '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.',
    "task:sim             state:D stack:0     pid:12    tgid:12    ppid:2      flags:0x00004000",
    "Call Trace:",
    " <TASK>",
    " __schedule+0x613/0x64e",
    " schedule+0x3e/0x56",
    " mutex_lock_nested+0x16/0x20",
    " sim_wait_idle+0x33/0x21e [sim]",
    " </TASK>",
]
STALL = [
    "rcu: INFO: rcu_sched self-detected stall on CPU",
    "rcu: \t1-....: (25997 ticks this GP) idle=a62/1/0x4000000000000002 softirq=21063/21063 fqs=6138",
    _DUMP,
    "Call Trace:",
    " <IRQ>",
    " dump_stack+0xee/0x16e",
    " rcu_sched_clock_irq+0x707/0x917",
    " asm_sysvec_apic_timer_interrupt+0x12/0x20",
    " </IRQ>",
    "RIP: 0010:sim_spin+0x1ca/0x240",
    " sim_loop+0x1/0x2",
    " sim_ioctl+0x1/0x2",
    " vfs_ioctl+0x1/0x2",
    " __x64_sys_ioctl+0x1/0x2",
    " do_syscall_64+0xbc/0x5c0",
]

REPORTS = {
    "lockdep.circular": (
        CIRCULAR,
        "possible circular locking dependency: console_lock in sim_show "
        "while holding dma_fence_map in sim_timedout",
    ),
    "warning": (WARN, "WARNING in sim_free (drivers/gpu/drm/sim.c)"),
    "oops.null": (NULL, "BUG: unable to handle kernel NULL pointer dereference in sim_irq"),
    "kasan": (KASAN, "KASAN: slab-use-after-free Read in sim_read"),
    "hung_task": (HUNG, "INFO: task hung in sim_wait_idle"),
    "rcu.stall": (STALL, "INFO: rcu detected stall in sim_ioctl"),
}
"""By kind: the lines, and the title."""


def printed(lines: list[str], caller: str = "T7", start: int = 1_000_000) -> list[bytes]:
    """As a serial console shows it, ten microseconds a line."""
    return [
        f"[{at // 1_000_000:5d}.{at % 1_000_000:06d}][{caller:>6}] {line}\r\n".encode()
        for at, line in zip(range(start, start + 10 * len(lines), 10), lines, strict=True)
    ]
