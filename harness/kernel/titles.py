"""What a report is called: one line as a kernel developer would write it, and the key of its
signature, which is built of the same things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.kernel import blame, commits, lockdep
from harness.kernel.reset_lines import device_of
from harness.kernel.signature import steady
from harness.kernel.stack import function

__all__ = ["Name", "of"]


@dataclass(frozen=True, slots=True)
class Name:
    """A report's title, the key of its signature, and the functions that it names, with the
    other spellings of these."""

    title: str
    key: tuple[str, ...]
    functions: tuple[str, ...] = ()


def of(kind: str, lines: Sequence[str]) -> Name:
    """The name of a report of `kind`, its header being the first of `lines`."""
    head = next((line.strip() for line in lines if line.strip()), "")
    naming = _BY_KIND.get(kind) or _BY_KIND.get(kind.split(".")[0]) or _other
    return naming(kind, head, lines)


_Naming = Callable[[str, str, Sequence[str]], Name]


def _name(what: str, functions: tuple[str, ...], *more: str) -> Name:
    where = functions[0] if functions else ""
    title = f"{what} in {where}" if where else what
    return Name(title, (what, where, *more), functions)


def _find(pattern: str, lines: Sequence[str]) -> re.Match[str] | None:
    compiled = re.compile(pattern)
    return next((match for line in lines if (match := compiled.search(line))), None)


def _kasan(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"K\w+SAN: ([a-z][\w -]*?)(?: in | on |$)|Sanitizer: ([\w-]+)", head)
    what = (match[1] or match[2]) if match else "report"
    more: tuple[str, ...] = ()
    if what == "double-free" or ("free" in what and "invalid" in what):
        what, more = "invalid-free", ("alloc",)
    elif access := _find(r"\b(Read|Write|read|write|READ|WRITE) (?:of size \d|at addr)", lines[:8]):
        what = f"{what.replace(' ', '-')} {access[1].capitalize()}"
    return _name(f"KASAN: {what}", blame.functions(kind, lines, more))


def _kmsan(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"K?M\w*(?:SAN|Sanitizer): ([\w-]+)", head)
    what = match[1] if match else "report"
    more = ("usb",) if "usb" in what else ()
    return _name(f"KMSAN: {what}", blame.functions(kind, lines, more))


def _kcsan(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"KCSAN: ([\w: -]+?) in (.*)", head)
    if match is None:
        return _name("KCSAN: data-race", blame.functions(kind, lines))
    both = tuple(sorted({function(part) for part in match[2].split(" / ")}))
    return Name(f"KCSAN: {match[1]} in {' / '.join(both)}", (match[1], *both), both)


def _kfence(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"KFENCE: ([\w -]+?)(?: in |$)", head)
    what = match[1] if match else "report"
    more = ("alloc",) if "free" in what or "corruption" in what else ()
    return _name(f"KFENCE: {what}", blame.functions(kind, lines, more))


def _ubsan(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"UBSAN: ([\w -]+?)(?: in |$)", head)
    what = match[1].lower().replace(" ", "-") if match else "undefined-behaviour"
    return _name(f"UBSAN: {what}", blame.functions(kind, lines))


# WARNs in a helper are about its caller: (file, function) -> (what, groups to pass over)
_WARNINGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"lib/debugobjects\.c", "WARNING: ODEBUG bug", ("odebug",)),
    (r"lib/refcount\.c", "WARNING: refcount bug", ("kobject",)),
    (r"lib/kobject\.c", "WARNING: kobject bug", ("kobject",)),
    (r"mm/usercopy\.c", "WARNING: bad usercopy", ("usercopy",)),
    (r"fs/proc/generic\.c", "WARNING: proc registration bug", ("proc",)),
    (r"mm/vmalloc\.c.* __vmalloc_node_range", "WARNING: zero-size vmalloc", ("alloc",)),
    (r"(?:mm|include/linux)/(?:sl[aou]b|slab_common|page_alloc|util)\.[ch]", "WARNING", ("alloc",)),
    (r"mm/\S+\.c:\d+ \S*k?.?malloc", "WARNING: kmalloc bug", ("alloc",)),
    (r"\S+ usb_submit_urb", "WARNING", ("usb",)),
)  # fmt: skip


def _warning(kind: str, head: str, lines: Sequence[str]) -> Name:
    at = _find(
        r"(?:WARNING|Warning|Badness|BADNESS).*? at (?P<file>\S+?):\d+(?P<rest>.*)"
        r"|WARNING: (?P<late>\S+?):\d+ at (?P<late_rest>.*)",
        lines,
    )
    if at is None:
        stacks = re.search(r"WARNING: ((?:kernel )?stack [a-z]+)", head)
        what = f"WARNING: {stacks[1]}" if stacks else "WARNING"
        return _name(what, blame.functions(kind, lines))
    start = next(n for n, line in enumerate(lines) if at.string is line)
    place = at[0].removeprefix("WARNING: ")
    place = place[place.index(at["file"] or at["late"]) :]
    file = (at["file"] or at["late"]).removeprefix("/")
    for pattern, what, more in _WARNINGS:
        if re.match(pattern, place):
            return _name(what, blame.functions(kind, lines[start:], more))
    if "kernel/locking/lockdep.c" in place:
        return _name("WARNING: locking bug", blame.functions(kind, lines[start:]))
    found = blame.functions(kind, lines[start:])
    name = _name("WARNING", found)
    return Name(f"{name.title} ({file})", name.key if found else (*name.key, file), found)


def _bug(kind: str, head: str, lines: Sequence[str]) -> Name:
    at = _find(r"(?:[kK]ernel )?BUG (?:at|in) (?P<file>\S+?):\d+", lines)
    file = at["file"] if at else ""
    if file.endswith("lib/list_debug.c") or _find(r"^(?:list_\w+|slab_list) corruption", lines[:4]):
        return _name("BUG: corrupted list", blame.functions(kind, lines))
    if file.endswith("mm/usercopy.c"):
        return _name("BUG: bad usercopy", blame.functions(kind, lines, ("usercopy",)))
    found = blame.functions(kind, lines, ("alloc",))
    name = _name("kernel BUG", found)
    if found or not file:
        return name
    return Name(f"kernel BUG at {file}", (*name.key, file))


_OOPSES = (
    (r"divide[ _]error", "divide error"),
    (r"invalid opcode", "invalid opcode"),
    (r"stack segment", "stack segment fault"),
    (r"int3", "int3"),
    (r"double.fault", "PANIC: double fault"),
    (r"stack guard page|stack overflow|Insufficient stack", "BUG: stack guard page was hit"),
    (r"Internal error", "Internal error"),
    (r"Unhandled fault", "Unhandled fault"),
    (r"control protection", "control protection fault"),
)  # fmt: skip


def _oops(kind: str, head: str, lines: Sequence[str]) -> Name:
    if kind == "oops.null":
        what = "BUG: unable to handle kernel NULL pointer dereference"
    elif kind == "oops.page_fault":
        what = "BUG: unable to handle kernel paging request"
    elif kind == "oops.gpf":
        what = "general protection fault"
    else:
        what = next((what for pattern, what in _OOPSES if re.search(pattern, head)), "Oops")
    return _name(what, blame.functions(kind, lines, ("alloc",)))


def _panic(kind: str, head: str, lines: Sequence[str]) -> Name:
    reason = re.split(r"Kernel panic(?: - not syncing)?:? ?", head, maxsplit=1)[-1]
    if "corrupted stack end" in reason:
        found = blame.functions("soft_lockup", lines, ("schedule",))
        return _name("kernel panic: corrupted stack end", found)
    if match := re.search(r"[sS]tack is corrupted in: (\S+)", reason):
        where = function(match[1])
        known = not re.fullmatch(r"[0-9a-f]+", where)
        found = (where,) if known else blame.functions(kind, lines)
        return _name("kernel panic: stack is corrupted", found)
    reason = re.split(r"[:.]? (?:exitcode|error -?\d)|--- error| \.\.\.|\[", reason, maxsplit=1)[0]
    what = f"kernel panic: {steady(reason)}"
    return Name(what, (what,))


def _stalled(kind: str, head: str, lines: Sequence[str]) -> Name:
    what = {
        "rcu.stall": "INFO: rcu detected stall",
        "soft_lockup": "BUG: soft lockup",
        "hard_lockup": "hard LOCKUP",
        "hung_task": "INFO: task hung",
    }[kind]
    if kind == "hung_task" and "can't die" in head:
        what = "INFO: task can't die"
    return _name(what, blame.functions(kind, lines))


def _atomic(kind: str, head: str, lines: Sequence[str]) -> Name:
    what = (
        "BUG: scheduling while atomic"
        if "scheduling while" in head
        else ("BUG: sleeping function called from invalid context")
    )
    return _name(what, blame.functions(kind, lines, ("schedule", "alloc")))


def _preempt(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.search(r"using (\S+?)(?:\(\))? in preemptible", head)
    what = f"BUG: using {match[1] if match else 'smp_processor_id'}() in preemptible code"
    return _name(what, blame.functions(kind, lines, ("preempt",)))


def _suspicious(kind: str, head: str, lines: Sequence[str]) -> Name:
    return _name("suspicious RCU usage", blame.functions(kind, lines, ("rcu",)))


def _leak(kind: str, head: str, lines: Sequence[str]) -> Name:
    return _name("memory leak", blame.functions(kind, lines, ("alloc", "any_alloc")))


def _pages(kind: str, head: str, lines: Sequence[str]) -> Name:
    what = "vmalloc allocation failure" if "vmalloc" in head else "page allocation failure"
    return _name(what, blame.functions(kind, lines, ("alloc",)))


def _workqueue(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = _find(r"in-flight: (?:\d+\S*?:)?([A-Za-z_]\w+)", lines)
    return _name("BUG: workqueue lockup", (match[1],) if match else ())


def _netdev(kind: str, head: str, lines: Sequence[str]) -> Name:
    title = "unregister_netdevice: waiting for DEV to become free"
    return Name(title, (title,))


def _mce(kind: str, head: str, lines: Sequence[str]) -> Name:
    bank = _find(r"[bB]ank (\d+)", lines)
    title = f"Machine Check Exception{f' in bank {bank[1]}' if bank else ''}"
    return Name(title, (title,))


def _odd(kind: str, head: str, lines: Sequence[str]) -> Name:
    title = steady(head)
    return Name(title, (title,))


_PIPE = re.compile(r"\[(?:CRTC|PLANE|CONNECTOR):\d+:(?P<name>[^\]]{1,40})\]")


def _commit(kind: str, head: str, lines: Sequence[str]) -> Name:
    """Which pipe stood still is chance, and each driver names them in its own way."""
    late = re.search(commits.TIMED_OUT, head)
    what = late[0] if late else steady(head)
    driver, _ = device_of(head)
    if driver.startswith("drm"):  # the helper that says so, on behalf of some driver
        driver = ""
    pipe = _PIPE.search(head)
    title = f"{what} on {pipe['name']}" if pipe else what
    return Name(f"{title} ({driver})" if driver else title, (driver, what))


def _spinlock(kind: str, head: str, lines: Sequence[str]) -> Name:
    match = re.match(r"BUG: \w+(?: (?!on |in )\w+)+", head)
    what = match[0] if match else "BUG: spinlock"
    return _name(what, blame.functions(kind, lines, ("lockish",)))


def _lockdep(kind: str, head: str, lines: Sequence[str]) -> Name:
    report = lockdep.parse(lines)
    if report is None:
        return _name(steady(head), blame.functions(kind, lines, ("lockish",)))
    functions = report.functions or blame.functions(kind, lines, ("lockish",))
    return Name(report.title, report.key, functions)


def _locking(kind: str, head: str, lines: Sequence[str]) -> Name:
    """lockdep's own WARNs, and the lines it prints when it finds itself wrong."""
    if head.startswith("BUG: ") or "chain_key" in head:
        return _name(steady(head), blame.functions(kind, lines, ("lockish",)))
    return _warning(kind, head, lines)


def _other(kind: str, head: str, lines: Sequence[str]) -> Name:
    if re.search(r"stack guard page", head):
        return _oops("oops", head, lines)
    if re.search(r"Dentry .* still in use", head):
        kinds = re.search(r"\[unmount of (\S+)", head)
        name = Name("BUG: Dentry still in use in unmount", ("Dentry",), ("unmount",))
        return Name(name.title, (*name.key, kinds[1] if kinds else ""), name.functions)
    if asserted := re.search(r"ASSERT FAILED at \(\S*?([\w./-]+)(?::\d+)?\): ?(.*)", head):
        title = f"trusty: ASSERT FAILED: {asserted[2] or asserted[1]}"
        return Name(title, (title,))
    head = re.sub(
        r"[\[(]unmount of .*|\bin process\b.*|\b(?:process|CPU|PID|pid|comm|task) .*"
        r"|\b(?:process|pfn|in|mm|page|CPU|PID|pid|comm|task|addr)[:=].*"
        r"|Dentry \S+|: \S*ptrval\S*",
        lambda m: "Dentry" if m[0][:6] == "Dentry" else "",
        head,
    )
    head = re.sub(r"^=*\s*BUG [\w-]+ \([^)]*\): ", "BUG: ", head)
    return _name(steady(head)[:100], blame.functions(kind, lines, ("alloc",)))


_BY_KIND: dict[str, _Naming] = {
    "kasan": _kasan,
    "kmsan": _kmsan,
    "kcsan": _kcsan,
    "kfence": _kfence,
    "ubsan": _ubsan,
    "warning": _warning,
    "refcount": _warning,
    "list_corruption": _bug,
    "kernel_bug": _bug,
    "oops": _oops,
    "double_fault": _oops,
    "panic": _panic,
    "rcu.stall": _stalled,
    "rcu.suspicious": _suspicious,
    "soft_lockup": _stalled,
    "hard_lockup": _stalled,
    "hung_task": _stalled,
    "atomic_sleep": _atomic,
    "preempt_debug": _preempt,
    "leak": _leak,
    "page_alloc_failure": _pages,
    "workqueue_lockup": _workqueue,
    "netdev_ref": _netdev,
    "mce": _mce,
    "flip_timeout": _commit,
    "fifo_underrun": _odd,
    "lockdep": _lockdep,
    "lockdep.internal": _locking,
    "lockdep.off": _odd,
    "lockdep.disabled": _odd,
    "lockdep.spinlock_debug": _spinlock,
}
