"""The grammar of lockdep's lines: how it writes a lock, a usage, a scenario.

A line that printk's continuations left in pieces is put together again first.
Source of the wording: kernel/locking/lockdep.c, print_lock() and __print_lock_name(), from
2.6.18 on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.kernel.stack import function

__all__ = ["INSTANCE", "Lock", "joined", "lock_in", "locks_in", "named", "plumbing"]

# "ffffffff8226f140 (console_lock){+.+.}-{0:0}, at: func+0x7b/0xa0 [mod]".  Class names hold
# parentheses themselves, so a name ends at "){".  The address is missing before 4.18, may be
# hashed or "(ptrval)"; the wait types are missing before 5.8; six usage characters were usual
# while reclaim was a lock state of its own (to 4.13).
# A lock's own address: hashed, or not to be told yet.
INSTANCE = r"(?:[0-9a-f]{8,16}|\(_*ptrval_*\)|\(null\))"
_USAGE = r"\)\{(?P<usage>[-+.?]{2,10})\}(?:-\{(?P<outer>\d{1,18}):(?P<inner>\d{1,18})\})?"
_LOCK = re.compile(
    rf"(?:(?P<instance>{INSTANCE}) ?)?"
    r"\((?P<name>\S.*?)" + _USAGE + r"(?:,? at: *(?P<at>\S.*))?"
)
_VERSION = re.compile(r"^(?P<name>.*?)(?:#(?P<version>\d{1,18}))?(?:/(?P<subclass>[1-7]))?$")
# "[<c0059e94>] func+0x1/0x2 [mod]", "func (file.c:12) mod", "0xffffffff..": the first word.
_AT = re.compile(
    r"(?:\[<[^>]*>\]\s*)?\(?(?P<symbol>[A-Za-z_][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?"
    r"(?:.*?\[(?P<module>\w+)(?: [0-9a-f]+)?\])?"
)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock as lockdep prints it.

    `name` is its class's, less `#version` (a class of the same name, by order of
    registration) and `/subclass`.  `usage`: one character a state, `wait`: outer and inner wait
    type or None.  `where`: the function that takes it, `module` that function's.
    """

    name: str
    where: str = ""
    module: str = ""
    version: int = 1
    subclass: int = 0
    usage: str = ""
    wait: tuple[int, int] | None = None
    instance: str = ""

    def __str__(self) -> str:
        return f"{self.label} in {self.where}" if self.where else self.label

    @property
    def label(self) -> str:
        """The class, told apart from others of its name only where code does: by subclass."""
        return f"{self.name}/{self.subclass}" if self.subclass else self.name

    @property
    def key(self) -> str:
        """The class as it is called on any kernel and machine."""
        return _everywhere(self.label)


def named(text: str, at: str = "") -> Lock:
    """The lock of a class that is printed bare, as in a scenario."""
    parts = _VERSION.match(text.strip())
    where = _AT.match(at.strip()) if at else None
    if parts is None:  # a line break inside: nothing lockdep prints
        return Lock(text.strip())
    return Lock(
        parts["name"],
        function(where["symbol"]) if where else "",
        (where["module"] or "") if where else "",
        int(parts["version"] or 1),
        int(parts["subclass"] or 0),
    )


def lock_in(line: str) -> Lock | None:
    """The first lock that `line` prints, or None."""
    return next(iter(locks_in(line)), None)


def locks_in(line: str) -> tuple[Lock, ...]:
    """All locks that `line` prints: two stand in "(A){-.-.} -> (B){+.+.}"."""
    if "){" not in line:
        return ()
    return tuple(_lock(match) for match in _LOCK.finditer(line))


def _lock(match: re.Match[str]) -> Lock:
    bare = named(match["name"], match["at"] or "")
    wait = (int(match["outer"]), int(match["inner"])) if match["outer"] else None
    return Lock(
        bare.name,
        bare.where,
        bare.module,
        bare.version,
        bare.subclass,
        match["usage"],
        wait,
        match["instance"] or "",
    )


# Spinlocks had a map inside a lock inside a lock until 5.x; workqueue classes gained a prefix
# in 4.14 and lost their quotes in 4.20; a format that names the queue was its class's name.
_RLOCK = re.compile(r"^&\(&(?P<inner>.*)\)->rlock(?P<rest>/\d)?$")
_WORKQUEUE = re.compile(r'^\(wq_completion\)(?:"[^"]*"\(?)?"?(?P<name>[^")]+)"?.*$')
_PRINTED = re.compile(r" l=\d.*$")  # what a class's own print_fn adds (6.2 and later)


def _everywhere(name: str) -> str:
    if match := _RLOCK.match(name):
        return f"&{match['inner']}{match['rest'] or ''}"
    if match := _WORKQUEUE.match(name):
        return f"(wq_completion){re.sub('[0-9]+', 'N', match['name'])}"
    return _PRINTED.sub("", name)


# What opens a line of several printk() calls, and what has come when it is whole.
_OPEN = (
    (
        re.compile(
            r"^\s*(?:-> ?#\d+|#\d+:)?\s*(?:[0-9a-f]{8,16}|\(_*ptrval_*\))?\s*"
            r"\((?!.*\)\{[-+.?]{2,}\})"
            r"|^\s*(?:-> ?#\d+|#\d+:|[0-9a-f]{16} ?)\s*$"
        ),
        re.compile(r"\)\{[-+.?]{2,10}\}(?:-\{\d+:\d+\})?(?:.*, at: \S.*|\s*->.*\{.*|:?\s*)$"),
    ),
    (re.compile(r"^\s*(?:r?lock|sync)\((?!.*\);)"), re.compile(r"\);\s*$")),
    (re.compile(r"is trying to (?:release|contend) lock \((?!.*\) at:)"), re.compile(r"\) at:")),
)
_CHAIN = re.compile(r"^\s*Chain exists of:")
_PIECES = 10


def joined(lines: Sequence[str]) -> list[str]:
    """`lines` with those that came in pieces made whole; what stays open stays as it is."""
    whole: list[str] = []
    at = 0
    while at < len(lines):
        taken = _pieces(lines, at)
        text = "".join(lines[at : at + taken])
        whole.append(text)
        at += taken
        if _CHAIN.match(text) and at < len(lines):
            taken = _chain_pieces(lines, at)
            whole.append("".join(lines[at : at + taken]))
            at += taken
    return whole


def _pieces(lines: Sequence[str], at: int) -> int:
    for opening, whole in _OPEN:
        if not opening.search(lines[at]):
            continue
        text = lines[at]
        for count in range(2, _PIECES + 1):
            piece = lines[at + count - 1] if at + count <= len(lines) else ""
            if not piece.strip() or ("+0x" in piece and ", at:" not in text + piece):
                break  # a blank line or a frame is no piece of a lock
            text += piece
            if whole.search(text):
                # "){+.+.}" may be followed by ", at: f" in a piece of its own.
                follows = lines[at + count] if at + count < len(lines) else ""
                return count + 1 if follows.lstrip().startswith(", at:") else count
    return 1


def _chain_pieces(lines: Sequence[str], at: int) -> int:
    count = 0
    while count < _PIECES and at + count < len(lines):
        line = lines[at + count].strip()
        if not line or line.startswith("Possible"):
            break
        count += 1
    return max(count, 1)


# Functions that take locks, allocate, or print the report: nobody's bug is in them.
_PLUMBING = re.compile(
    r"_*(?:dump_stack\w*|show_stack\w*|unwind_backtrace|dump_backtrace\w*|print_\w*(?:bug|report)\w*"
    r"|check_(?:noncircular|prev_add|prevs_add|usage\w*|irq_usage|deadlock|path)|validate_chain"
    r"|lock_(?:acquire|release|map_acquire\w*|downgrade|set_class|contended|acquired|pin_lock)\w*"
    r"|(?:mark_(?:lock|held|usage)\w*|valid_state|register_lock_class|assign_lock_key|check_lock\w*)"
    r"|lockdep_\w+|debug_check_no_locks_\w+|save_trace|stack_trace_save|save_stack_trace\w*"
    r"|(?:ww_)?mutex_(?:lock|trylock|unlock)\w*|mutex_acquire\w*"
    r"|_*raw_(?:spin|read|write)_\w*|_*(?:spin|read|write)_(?:lock|trylock)\w*|rt_spin_\w+"
    r"|do_raw_\w*lock\w*|queued_\w*lock\w*"
    r"|down(?:_(?:read|write|interruptible|killable|trylock|timeout)\w*)?|up(?:_(?:read|write))?"
    r"|rt_(?:mutex|read|write)_\w*lock\w*|ww_acquire_init|rwsem_\w+"
    r"|percpu_down_\w+|wait_for_(?:common|completion)\w*|(?:trace|ftrace)_hard\w+"
    r"|fs_reclaim_acquire|might_alloc|slab_pre_alloc_hook|prepare_alloc_pages|k[vz]?[mc]?alloc\w*"
    r"|k(?:mem_cache|memdup|vmemdup|strn?dup|asprintf|vasprintf|realloc|free)\w*|k?vm?alloc\w*"
    r"|kv?z?alloc\w*|kvmalloc\w*|kcalloc\w*"
    r"|alloc_pages\w*|get_free_pages\w*|folio_alloc\w*|get_page_from_freelist|s?lab_alloc\w*"
    r"|slab_alloc\w*|new_slab|vmalloc\w*|kmalloc\w*"
    r"|flush_work\w*|flush_workqueue\w*|cancel_(?:delayed_)?work\w*|cancel_work_timer"
    r"|start_flush_work|touch_w\w+_lockdep_map|might_(?:sleep|fault|lock)\w*"
    r"|console_lock|modeset_lock|drm_modeset_acquire_init|mmu_notifier_invalidate_range_start"
    r"|dma_fence_might_wait|atomic_dec_and_\w*lock\w*|v?printk\w*|down_trylock_console_sem"
    r"|(?:try_to_)?del_timer\w*|timer_delete\w*|complete|complete_all|wake_up\w*|rcu_\w*check\w*"
    r"|warn_slowpath\w*|warn|report_bug|handle_bug|exc_invalid_op|asm_exc_invalid_op|fixup_bug)$"
)


def plumbing(name: str) -> bool:
    """Whether `name` is a function that only takes a lock, allocates, waits or reports."""
    return _PLUMBING.match(name) is not None
