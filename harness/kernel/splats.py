"""Splats: one kernel report each, from its header to its end.

A table of kinds finds headers; records of the same caller are gathered until the
kind's end, so that two CPUs that report at once do not mix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.kernel.records import Record

__all__ = ["Splat", "find", "function", "headline", "steady"]

# Longest report kept, in records, and the silence of its caller that ends one, in microseconds.
# A lockdep report of a deep chain runs to some hundred lines; lines of one report follow
# each other within milliseconds even on a serial console.
LONGEST = 1000
SILENCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: what starts a report, what ends it, and whether it is a failure."""

    name: str
    header: re.Pattern[str]
    end: re.Pattern[str] | None
    severity: str = "fail"


def _kind(name: str, header: str, end: str | None = None, severity: str = "fail") -> Kind:
    return Kind(name, re.compile(header), re.compile(end) if end else None, severity)


_STACK = r"^\s*</TASK>"
_TRACE = r"^---\[ end trace"

# Sources, Linux 6.12: kernel/locking/lockdep.c, kernel/panic.c, kernel/watchdog.c,
# kernel/hung_task.c, kernel/rcu/tree_stall.h, kernel/workqueue.c, kernel/sched/core.c,
# arch/x86/mm/fault.c, lib/list_debug.c, mm/kasan/report.c, lib/ubsan.c.
KINDS = (
    _kind(
        "lockdep",
        r"^(?:WARNING: (?:possible circular locking dependency detected"
        r"|possible recursive locking detected|inconsistent lock state"
        r"|\w+-safe -> \w+-unsafe lock order detected"
        r"|possible irq lock inversion dependency detected|Nested lock was not taken"
        r"|bad unlock balance detected!|bad contention detected!|held lock freed!"
        r"|\S+/\d+ still has locks held!|lock held when returning to user space!"
        r"|suspicious RCU usage|chain_key collision)"
        r"|\[ (?:BUG: Invalid wait context|INFO: possible .*detected) \]"
        r"|INFO: trying to register non-static key)",
        _STACK,
    ),
    _kind("lockdep-off", r"^(?:BUG: MAX_\w+ too low!|Disabling lock debugging due to)", None),
    _kind("kasan", r"^BUG: K[AMC]SAN: ", r"^==+$"),
    _kind("kfence", r"^BUG: KFENCE: ", r"^==+$"),
    _kind("ubsan", r"^UBSAN: ", _TRACE),
    _kind("atomic", r"^BUG: (?:sleeping function called|scheduling while atomic)", _STACK),
    _kind("lockup", r"(?:BUG: soft lockup|Watchdog detected hard LOCKUP)", _STACK),
    _kind("rcu-stall", r"^rcu: INFO: \w+ (?:self-)?detected (?:expedited )?stall", _STACK),
    _kind("hung-task", r"^INFO: task .* blocked for more than \d+ seconds", _STACK),
    _kind("workqueue", r"^BUG: workqueue lockup", None),
    _kind("panic", r"^Kernel panic - not syncing", r"^---\[ end Kernel panic"),
    _kind("cut-here", r"^-+\[ cut here \]-+$", _TRACE),
    _kind("warning", r"^WARNING: (?:CPU: \d+ PID: \d+ )?at \S+:\d+", _TRACE),
    _kind("oops", r"^(?:BUG: (?:kernel NULL|unable to handle)|Oops: |general protection)", _TRACE),
    _kind("bug", r"^(?:kernel )?BUG(?: at |: )\S+", _TRACE),
    _kind("list", r"^list_(?:add|del) corruption", None),
)


@dataclass(slots=True)
class Splat:
    """One kernel report.  `records` in order, the header first."""

    kind: str
    severity: str
    records: list[Record] = field(default_factory=list)

    @classmethod
    def of_text(cls, kind: str, text: str) -> Splat:
        """A report kept as text, as a finding has it."""
        return cls(kind, "fail", [Record(0, 0, 0, 0, "", text)])

    @property
    def text(self) -> str:
        """The report as the kernel printed it."""
        return "\n".join(record.text for record in self.records)

    @property
    def lines(self) -> list[str]:
        """The report's lines."""
        return self.text.split("\n")


def find(records: Iterable[Record]) -> list[Splat]:
    """All splats in `records`, in the order of their headers."""
    done: list[Splat] = []
    open_: dict[str, tuple[Splat, Kind]] = {}
    for record in records:
        if record.facility:
            continue  # userspace wrote it; a report is the kernel's own
        current = open_.get(record.caller)
        if current and record.usec - current[0].records[-1].usec > SILENCE:
            del open_[record.caller]
            current = None
        kind = _header(record)
        if current is not None and not (kind and _starts_anew(current[0], kind)):
            splat, of_kind = current
            splat.records.append(record)
            _sharpen(splat, record)
            if _ends(of_kind, record) or len(splat.records) >= LONGEST:
                del open_[record.caller]
        elif kind is not None:
            splat = Splat(kind.name, kind.severity, [record])
            done.append(splat)
            open_.pop(record.caller, None)
            if kind.end is not None:
                open_[record.caller] = (splat, kind)
    return done


def _header(record: Record) -> Kind | None:
    for line in record.lines():
        for kind in KINDS:
            if kind.header.search(line):
                return kind
    return None


def _starts_anew(splat: Splat, kind: Kind) -> bool:
    """Whether a header inside an open report begins another one: a WARNING or BUG line
    right after "cut here" is that report's own second line."""
    return not (splat.kind == "cut-here" or kind.name in ("lockdep-off", "oops", "bug"))


def _sharpen(splat: Splat, record: Record) -> None:
    """A "cut here" report learns what it is from the line after."""
    if splat.kind == "cut-here":
        kind = _header(record)
        if kind is not None and kind.name != "cut-here":
            splat.kind, splat.severity = kind.name, kind.severity


def _ends(kind: Kind, record: Record) -> bool:
    return kind.end is not None and any(kind.end.search(line) for line in record.lines())


_WARN_AT = re.compile(
    r"^WARNING: (?:CPU: \d+ PID: \d+ )?at (?P<file>\S+?):\d+(?: (?P<symbol>\S+))?"
)
_RIP = re.compile(r"RIP: \w+:(?P<symbol>[A-Za-z_]\S*\+0x\S+)")
_VARYING = re.compile(r"\b(?:0x)?[0-9a-f]{6,}\b|\+0x[0-9a-f]+/0x[0-9a-f]+|\[#\d+\]|\b\d+\b|#\d+")


def headline(splat: Splat) -> str:
    """One line for a report: its header less what varies between boots."""
    for line in splat.lines:
        if match := _WARN_AT.match(line):
            where = function(match["symbol"]) if match["symbol"] else "?"
            return f"WARNING in {where} ({match['file']})"
    header = next(line for line in splat.lines if line.strip())
    if splat.kind == "hung-task" and (match := _HUNG.match(header)):
        return f"task {match['comm'].strip()} blocked for long in {_sleeper(splat)}"
    header = steady(header).removesuffix(", address:")
    where = next((function(m["symbol"]) for line in splat.lines if (m := _RIP.search(line))), "")
    return f"{header} in {where}" if where else header


# "INFO: task kworker/u8:0:11 blocked for more than 120 seconds."
_HUNG = re.compile(r"^INFO: task (?P<comm>[^/:]+)")
_FRAME = re.compile(r"^ {1,2}(?P<symbol>[A-Za-z_]\S*\+0x[0-9a-f]+/0x[0-9a-f]+)")
# Ways to sleep: who called them is what a reader asks.
_SLEEPS = re.compile(
    r"_*(?:(?:io_|preempt_)?schedule\w*|wait_for_common|wait_for_completion\w*"
    r"|mutex_lock\w*|rwsem_down_\w+|rt_mutex_\w+|down_(?:read|write)\w*)$"
)


def _sleeper(splat: Splat) -> str:
    """The first function of the stack that is not itself a way to sleep."""
    frames = (function(m["symbol"]) for line in splat.lines if (m := _FRAME.match(line)))
    return next((name for name in frames if not _SLEEPS.match(name)), "?")


def steady(line: str) -> str:
    """`line` less what varies between boots: addresses, offsets, numbers."""
    return " ".join(_VARYING.sub("", line).split())


_SUFFIX = re.compile(r"(?:\.(?:cold|isra|constprop|part|llvm|lto_priv)(?:\.\d+)*)+$")
_SYMBOL = re.compile(r"^(?P<name>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+")


def function(symbol: str) -> str:
    """`name.cold+0x1/0x2 [mod]` -> `name`: what survives compilers and offsets."""
    match = _SYMBOL.match(symbol.strip().removeprefix("? "))
    return _SUFFIX.sub("", match["name"] if match else symbol.strip())
