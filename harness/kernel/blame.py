"""Which function a report is about: the first of its stack that a developer would name.

Above it stand those that print the report, check, trap, lock, copy or allocate for others.  What
is what: the kernel's sources under the directories named by group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.kernel.plumbing import ANCHORS, GROUPS, IDLE, INTERRUPTS, is_plumbing, is_report
from harness.kernel.stack import Frame, Trace, frame, plain, pointer, traces

__all__ = ["aliases", "functions", "header_function"]


_SYSCALL = re.compile(
    r"(?:__)?(?:x64_|ia32_|arm64_|riscv_|s390x?_|se_|do_)?(?:compat_)?(?:sys|SyS"
    r"|SYSC)_(?P<name>\w+)$"
)


def aliases(name: str) -> tuple[str, ...]:
    """A function as it is called in signatures, then other spellings of it: a system call has
    another prefix in every release and architecture."""
    match = _SYSCALL.match(name)
    return (f"sys_{match['name']}", match["name"], name) if match else (name,)


_IN = re.compile(r" (?:in|at) (?P<symbol>[A-Za-z_][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+| |$)")
_AT_FILE = re.compile(
    r" at \S+:\d+ (?P<symbol>[A-Za-z_][\w.$]*)(?:\+0x|\(|$| )|"
    r"\.[chS]:\d+ at (?P<late>[A-Za-z_][\w.$]*)"
)


def header_function(line: str) -> str:
    """The function that a header itself names ("... in foo+0x1/0x2"), or ""."""
    match = _AT_FILE.search(line)
    if match is not None:
        return plain(match["symbol"] or match["late"])
    match = _IN.search(line)
    return plain(match["symbol"]) if match and "+0x" in match[0] else ""


def functions(kind: str, lines: Sequence[str], more: Sequence[str] = ()) -> tuple[str, ...]:
    """The functions that a report of `kind` is about, the one to name first; none if its stack is
    lost.  `more` names groups to pass over as well."""
    skips = [GROUPS[name] for name in more]
    if kind in ("rcu.stall", "soft_lockup", "hard_lockup"):
        return _stalled(lines, kind == "rcu.stall")
    if kind == "hung_task":
        return _sleeping(lines)
    names = list(_candidates(kind, lines))
    own = (n for n in names if not is_plumbing(n) and not any(skip(n) for skip in skips))
    # Of a stack of helpers alone the first names the bug better than nothing.
    helpers = (n for n in names if not is_report(n) and not any(skip(n) for skip in skips))
    found = next(own, "") or next(helpers, "")
    return (found,) if found else ()


def _candidates(kind: str, lines: Sequence[str]) -> Iterator[str]:
    named = header_function(lines[0])
    if named:
        yield named
    sure: list[str] = []
    unsure: list[str] = []
    for trace in traces(lines):
        if _elsewhere(trace):
            continue
        for seen in trace.frames:
            (sure if seen.certain else unsure).append(seen.function)
        if kind == "kcsan" and sure:
            break
    yield from sure
    if not any(not is_plumbing(name) for name in sure):
        yield from unsure


def _elsewhere(trace: Trace) -> bool:
    """A stack that is not of the moment of the report: who allocated, who freed, ..."""
    return trace.title.startswith(
        ("Allocated", "Freed", "-> #", "Last ", "Second", "Uninit", "Local", "Preemption")
    )


_NEXT_STACK = re.compile(r"\s*Call [Tt]race:|.*NMI backtrace for|.*kthread stack dump|CPU: ")


def _flow(lines: Sequence[str]) -> Iterator[list[Frame]]:
    """The stacks, each with the pointers between its parts in their places."""
    current: list[Frame] = []
    for line in lines:
        seen = pointer(line) or frame(line)
        if seen is not None:
            if seen.certain:
                current.append(seen)
        elif len(current) > 2 and _NEXT_STACK.match(line):
            yield current
            current = []
    if current:
        yield current


def _stalled(lines: Sequence[str], interrupted: bool) -> tuple[str, ...]:
    """What the operation is that does not end: the function its dispatcher called, then the
    function it was caught in, which differs from report to report."""
    chosen = _running(list(_flow(lines)), interrupted)
    skip = GROUPS["stall"]
    caught = next((n for n in chosen if not is_plumbing(n) and not skip(n)), "")
    before = ""
    for name in chosen:
        if name.startswith("smp_call_function"):  # another CPU does not answer
            return ("smp_call_function", name)
        if ANCHORS(name):
            if before or interrupted:
                break
            continue  # the clock struck in the dispatcher itself: what that cut is below
        if not skip(name) and not is_plumbing(name):
            before = name
    if not before:  # nothing but helpers ran: the innermost that is not the report's own
        caught = next((name for name in chosen if not skip(name)), "")
        return aliases(caught) if caught else ()
    return tuple(dict.fromkeys((*aliases(before), *([caught] if caught else []))))


def _running(stacks: list[list[Frame]], interrupted: bool) -> list[str]:
    """The stack of what ran, from where the report's interrupt cut it."""
    named = [[seen.function for seen in stack] for stack in stacks]
    if interrupted:
        for names in named:
            cuts = [n for n, name in enumerate(names) if INTERRUPTS(name)]
            if not cuts:
                continue
            cut = cuts[0]
            while cut + 1 in cuts:
                cut += 1
            rest = names[cut + 1 :]
            if rest and not any(IDLE(name) for name in rest):
                return rest
    return next((names for names in named if not any(IDLE(name) for name in names)), [])


# Everybody waits for these when something else is stuck: the waiter tells nothing.
_VICTIMS = (
    ("synchronize_", re.compile(r"synchronize_(?:s?rcu|net|sched)"), "synchronize_rcu"),
    ("rtnl_lock", re.compile(r"rtnl_lock"), "rtnl_lock"),
)


def _sleeping(lines: Sequence[str]) -> tuple[str, ...]:
    """Who went to sleep: below the ways to sleep; of these the first where there is no other."""
    names = [f.function for trace in traces(lines) for f in trace.frames if f.certain]
    for name in names:
        for start, pattern, common in _VICTIMS:
            if name.startswith(start) and pattern.match(name):
                return (common,) if common == name else (common, name)
    # nobody sleeps in a clock: the address behind a call that ends a function may look like one
    ours = [name for name in names if not is_plumbing(name) and not GROUPS["stall"](name)]
    for skip in (GROUPS["sleep"], GROUPS["schedule"]):
        if (found := next((name for name in ours if not skip(name)), "")) and not ANCHORS(found):
            return aliases(found)
    return aliases(ours[0]) if ours else ()
