"""The kinds of kernel reports, and the line that starts each.

A kind is `family.sort` or `family`.  Sources of the wording, Linux 2.6 to 6.18, are named by row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.kernel import commits

__all__ = ["HINTS", "KINDS", "Kind", "header"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table.  `pattern` must match from the start of a line's text.

    `alone`: the report is this one line.  `joins`: the line is the second one of a report that
    has no stack yet ("Oops: ..." after "BUG: unable to handle ...") and else starts one.
    `hint`: literals, one of which is in every such line, for the scan of large logs.
    """

    name: str
    pattern: str
    hints: tuple[str, ...]
    severity: str = "fail"
    alone: bool = False
    joins: bool = False


def _row(
    name: str,
    pattern: str,
    *hints: str,
    severity: str = "fail",
    alone: bool = False,
    joins: bool = False,
) -> Kind:
    return Kind(name, pattern, hints, severity, alone, joins)


# pr_fmt: "rcu: ", "watchdog: ", "NMI watchdog: ", "x86/mm: ".
_WHO = r"(?:[A-Za-z][\w./-]{0,20}(?: watchdog)?: )?"
_DEP = r"(?:WARNING: |BUG: |INFO: |\[ (?:BUG|INFO): )"

KINDS: tuple[Kind, ...] = (
    # kernel/locking/lockdep.c; before 4.10 "[ INFO: ... ]", before 4.13 "[ BUG: ... ]"
    _row("lockdep.circular", _DEP + "possible circular locking dep", "circular locking dep"),
    _row("lockdep.recursive", _DEP + "possible recursive locking", "possible recursive locking"),
    _row("lockdep.inconsistent", _DEP + "inconsistent lock state", "inconsistent lock state"),
    _row("lockdep.irq_inversion", _DEP + r"possible irq lock inversion", "irq lock inversion"),
    _row("lockdep.irq_unsafe", _DEP + r"\S+-safe -> \S+-unsafe lock order", "-unsafe lock order"),
    _row("lockdep.irq_unsafe", _DEP + r"hard-safe -> hard-unsafe lock order", "-unsafe lock order"),
    _row("lockdep.wait_context", _DEP + "Invalid wait context", "Invalid wait context"),
    _row("lockdep.nested", _DEP + "Nested lock was not taken", "Nested lock was not"),
    _row("lockdep.bad_unlock", _DEP + "bad unlock balance det", "ad unlock balance"),
    _row("lockdep.bad_unlock", _DEP + "bad contention detected", "bad contention detected"),
    _row("lockdep.held_freed", _DEP + "held lock freed!", "held lock freed"),
    _row("lockdep.still_held", _DEP + r".{0,40}still has locks held", "still has locks held"),
    _row("lockdep.still_held", _DEP + "lock held (?:when returning|at task exit)", "lock held "),
    _row("lockdep.still_held", "BUG: workqueue leaked ", "workqueue leaked"),
    _row("lockdep.nonstatic_key", _DEP + "trying to register non-static", "to register non-static"),
    _row(
        "lockdep.internal", _DEP + r"chain_key collision|WARNING: \S+ chain_key", "chain_key coll"
    ),
    _row(
        "lockdep.internal",
        r"BUG: (?:looking up invalid subclass|key \S+ (?:not in|has not)|"
        r"\.*lock_class|invalid lock)",
        "invalid subclass",
        "BUG: key ",
    ),
    # kernel/locking/spinlock_debug.c, mutex-debug.c, rtmutex-debug.c
    _row(
        "lockdep.spinlock_debug",
        r"BUG: (?:spin|rw)lock (?:recursion|bad magic|lockup|wrong|"
        r"already|cpu rec|trylock)",
        "BUG: spinlock",
        "BUG: rwlock",
    ),
    _row("lockdep.off", r"BUG: MAX_\w+ too low", "BUG: MAX_"),
    _row(
        "lockdep.disabled",
        "Disabling lock debugging due to",
        "Disabling lock debug",
        severity="note",
        alone=True,
    ),
    # include/linux/rcupdate.h RCU_LOCKDEP_WARN; kernel/rcu/tree_stall.h, tasks.h; before 3.0
    # "rcu_sched_state detected stall on CPU 0"
    _row(
        "rcu.suspicious",
        _DEP + r"suspicious RCU usage|" + _DEP + "suspicious rcu_deref",
        "suspicious RCU usage",
        "suspicious rcu_deref",
    ),
    _row(
        "rcu.stall",
        _WHO + r"(?:INFO: )?rcu\w* (?:self-)?detected (?:expedited )?stall",
        "detected stall",
        "detected expedited stall",
    ),
    # kernel/hung_task.c
    _row(
        "hung_task",
        _WHO + r"INFO: task .{1,60}(?: blocked (?:for|in I/O wait for|on .{1,40} for)"
        r"| can't die (?:for|in)) more than \d+ sec",
        "INFO: task ",
    ),
    # kernel/watchdog.c, kernel/watchdog_perf.c, arch/powerpc/kernel/watchdog.c
    _row("soft_lockup", _WHO + "BUG: soft lockup", "BUG: soft lockup"),
    _row(
        "hard_lockup",
        _WHO + r"(?:Watchdog (?:CPU:? ?\d+ )?(?:detected )?hard LOCKUP|Watchdog CPU"
        r":?\d+ (?:Hard|became)|CPU \d+ (?:self-)?detected hard LOCKUP|BUG: NMI Watchdog detected)",
        "hard LOCKUP",
        "Watchdog CPU",
        "NMI Watchdog detected",
    ),
    _row("workqueue_lockup", _WHO + "BUG: workqueue lockup", "workqueue lockup"),
    # kernel/sched/core.c, lib/smp_processor_id.c
    _row(
        "atomic_sleep",
        r"BUG: (?:sleeping function called|scheduling while atomic)|(?:bad: )?"
        r"scheduling while atomic|Debug: sleeping function called",
        "sleeping function called",
        "scheduling while atomic",
    ),
    _row("preempt_debug", r"BUG: using \S+ in preemptible", "in preemptible"),
    # mm/kasan/report.c, mm/kmsan/report.c, kernel/kcsan/report.c, mm/kfence/report.c, lib/ubsan.c
    _row("kasan", "BUG: KASAN:|ERROR: AddressSanitizer:", "BUG: KASAN", "AddressSanitizer"),
    _row("kmsan", "BUG: KMSAN:|ERROR: MemorySanitizer:", "BUG: KMSAN", "MemorySanitizer"),
    _row("kcsan", "BUG: KCSAN:", "BUG: KCSAN"),
    _row("kfence", "BUG: KFENCE:", "BUG: KFENCE"),
    _row("ubsan", r"(?:Internal error: )?UBSAN: ", "UBSAN: "),
    # lib/refcount.c, lib/list_debug.c, lib/debugobjects.c: a line before their WARN or BUG
    _row("refcount", r"refcount_t: .*[.;]", "refcount_t: ", joins=True),
    _row(
        "list_corruption",
        r"(?:list_add|list_del|__list_\w+)(?: double add| corruption)|"
        r"slab_list corruption|plist corruption",
        " corruption",
        " double add",
        joins=True,
    ),
    _row("warning.odebug", r"ODEBUG: \w+ \w+ (?:\(|active|object)", "ODEBUG: ", joins=True),
    # include/asm-generic/bug.h, lib/bug.c, kernel/panic.c; from 6.18 "WARNING: FILE:LINE at FUNC"
    _row("cut_here", r"-{8,}\[ cut here ?\]-{8,}", "-[ cut here"),
    _row(
        "warning",
        r"(?:WARNING|Warning|BADNESS|Badness):? (?:CPU: ?\d+ (?:UID: \d+ )?"
        r"PID: ?-?\d+ )?at \S*\.(?:[chS]|rs|cpp):\d+|WARNING: \S+\.(?:[chS]|rs|cpp):\d+ at |"
        # arch/x86/kernel/{unwind_frame,dumpstack}.c
        r"WARNING: (?:kernel stack (?:regs|frame pointer) |stack (?:going|recursion) )",
        "WARNING: ",
        "WARNING at ",
        "Warning: at ",
        "Warning: CPU",
        "Warning at ",
        "Warning CPU",
        "WARNING CPU",
        "adness",
        "BADNESS",
    ),
    _row(
        "kernel_bug",
        r"(?:kernel|Kernel) BUG (?:at|\[#|in) ?\S*|BUG at \S+:\d+|kernel BUG",
        "ernel BUG",
        "BUG at ",
    ),
    # arch/x86/mm/fault.c, arch/arm64/mm/fault.c, arch/{arm,mips,powerpc,riscv,s390}/mm/fault.c
    _row(
        "oops.null",
        r"(?:BUG: )?(?:[uU]nable to handle )?[kK]ernel NULL pointer deref|"
        r"BUG: (?:unable to handle kernel )?NULL pointer|Unable to handle kernel NULL pointer|"
        r"BUG: Kernel NULL pointer deref|Unable to handle kernel pointer deref",
        "NULL pointer deref",
        "kernel pointer deref",
    ),
    _row(
        "oops.page_fault",
        r"(?:BUG: )?(?:CPU \d+ )?[uU]nable to handle (?:kernel |page |user |un)|"
        r"BUG: Unable to handle kernel (?:data|instr)|BUG: unable to handle page fault",
        "nable to handle ",
    ),
    # arch/x86/kernel/traps.c
    _row(
        "oops.gpf",
        r"(?:Oops: )?general protection(?: fault)?(?: maybe for address.*)?[:,] ",
        "general protection",
    ),
    _row(
        "oops",
        r"Oops(?: - [\w ]+| \w+)?: ?.*|Internal error: |invalid opcode: |"
        r"kernel tried to execute|Unhandled fault: |Unhandled prefetch abort|"
        r"(?:divide error|divide_error|int3|stack segment|double fault|bounds|overflow|debug|"
        r"invalid TSS|segment not present|alignment check|simd exception|coprocessor error|"
        r"control protection fault|kernel stack overflow \(\S+\)|trap invalid opcode): \w{4} \[#|"
        r"Unexpected kernel BRK|Bad mode in |Kernel stack overflow|Insufficient stack space|"
        r"Kernel mode (?:fault|signal)|Data bus error|Machine check in kernel|Fixing recursive "
        r"fault|SError Interrupt|Alignment trap: not handling",
        "Oops",
        "Internal error: ",
        "invalid opcode: ",
        "tried to execute",
        "Unhandled ",
        " [#",
        "stack overflow",
        "Bad mode in ",
        "Unexpected kernel BRK",
        "Insufficient stack",
        "SError Interrupt",
        "Data bus error",
        "Kernel mode fault",
        "Kernel mode signal",
        "Machine check in kernel",
        "Fixing recursive fault",
        "Alignment trap: not",
        joins=True,
    ),
    _row("double_fault", r"(?:traps: )?PANIC: (?:double|early exception)", "PANIC: ", joins=True),
    _row("panic", r"(?:[*!]* ?)?Kernel panic(?: - not syncing)?(?::|$)", "Kernel panic"),
    # mm/page_alloc.c, mm/kmemleak.c, mm/memory.c, mm/slub.c, kernel/fork.c, fs/dcache.c
    _row(
        "page_alloc_failure",
        r".{1,40}: page allocation (?:failure|stalls)|"
        r"vmalloc error: |.{1,40}: vmalloc: allocation failure",
        "page allocation failure",
        "page allocation stall",
        "vmalloc error: ",
        "vmalloc: allocation failure",
    ),
    _row(
        "leak",
        r"(?:BUG: )?memory leak$|unreferenced object 0x|.{0,30}BUG: memory leak$",
        "unreferenced object ",
        "memory leak",
    ),
    _row("leak", r"kmemleak: \d+ new suspected memory leaks", "suspected memory leak", alone=True),
    _row(
        "netdev_ref",
        r"unregister_netdevice: waiting for .+ to become free",
        "waiting for ",
        alone=True,
    ),
    # arch/x86/kernel/cpu/mce
    _row(
        "mce",
        r"(?:\[Hardware Error\]: |mce: \[Hardware Error\]: )?CPU \d+: Machine Check"
        r"(?: Exception)?:|HARDWARE ERROR\. This is",
        "Machine Check",
        "HARDWARE ERROR. This",
    ),
    # drivers/gpu/drm/drm_atomic_helper.c, drm_vblank.c
    _row(
        "mce",
        r"(?:mce: )?\[Hardware Error\]: Machine check events logged",
        "Machine check events",
        alone=True,
    ),
    _row(
        "flip_timeout",
        r".*" + commits.TIMED_OUT,
        "_done timed out",
        "commit wait timed out",
        alone=True,
    ),
    _row(
        "fifo_underrun",
        r".*(?:FIFO underrun|fifo underrun)",
        "FIFO underrun",
        "fifo underrun",
        severity="note",
        alone=True,
    ),
    # the secure world's kernel speaks through drivers/trusty/trusty-log.c
    _row("other_bug", r"trusty: .{0,60}ASSERT FAILED at ", "ASSERT FAILED at ", alone=True),
    # whatever else calls itself a bug
    _row(
        "other_bug",
        r"=*\s*BUG [\w-]+ \(.{1,60}\): |BUG: \S|BUG at |"
        r"VFS: Busy inodes after unmount",
        "BUG: ",
        "BUG ",
        "VFS: Busy inodes",
    ),
)

_ALL = re.compile("|".join(f"(?P<k{n}>{row.pattern})" for n, row in enumerate(KINDS)))
HINTS = tuple(dict.fromkeys(hint for row in KINDS for hint in row.hints))


# A console on which a line did not begin anew, or lost its first bytes: nothing else says these.
_ANYWHERE = re.compile(
    r"general protection fault: \w{4} \[#|BUG: soft lockup - CPU#\d"
    r"|BUG: unable to handle (?:kernel|page)"
    r"|BUG: K[A-Z]{2,4}N?: [a-z]|Kernel panic - not syncing: |WARNING: CPU: \d+ PID: \d+ at \S+:\d"
    r"|(?:INFO|WARNING): possible (?:recursive locking|circular locking dependency"
    r"|irq lock inversion "
    r"dependency) detected|kernel BUG at [\w./-]+\.[chS]:\d+!|-{8,}\[ cut here \]-{8,}"
    r"|BUG: sleeping function called from invalid|INFO: rcu_\w+ (?:self-)?detected "
)


def header(text: str) -> Kind | None:
    """The kind of report that a line with this text starts, or None."""
    match = _ALL.match(text)
    if match is None and (found := _ANYWHERE.search(text)):
        match = _ALL.match(text, found.start())
    if match is None or match.lastgroup is None:
        return None
    return KINDS[int(match.lastgroup[1:])]
