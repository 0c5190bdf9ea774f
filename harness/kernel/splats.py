"""Splats: one kernel report each, from its header to its end.

Records are told apart by printk's caller where the log has it, so that two CPUs that report at
once do not mix; a report goes on as long as its caller prints what reports are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from harness.kernel import signature, titles
from harness.kernel.kinds import KINDS, Kind, header
from harness.kernel.records import Record
from harness.kernel.signature import steady
from harness.kernel.stack import Frame, frame, frames

__all__ = ["SLACK", "Finder", "Splat", "find", "steady", "stream"]

# Longest report kept, in records: a lockdep report of a deep chain runs to some hundred lines.
LONGEST = 1000
# Longest text of one record kept, in characters; printk's own limit is about 1 KiB a line.
WIDEST = 8192
# The silence of its caller that ends a report, in microseconds: its lines follow each other within
# milliseconds even on a serial console, but other CPUs may take long to answer an NMI.
SILENCE = 2_000_000
PATIENT = 12_000_000
# Two CPUs print a little out of order, in microseconds; a new boot starts from 0.
SLACK = 1_000_000
# Reports open at once: one a caller, and what prints so many at a time is a broken log.
MOST_OPEN = 64
# Lines that are no report's, one after the other, that end one.
STRANGERS = 16


@dataclass(frozen=True)
class Splat:
    """One kernel report.  `kind` is `family.sort` or `family`; `records` in order, the header
    first."""

    kind: str
    severity: str
    records: tuple[Record, ...]
    place: int = 0
    """Its header's place among the records that were looked at: reports end in another order."""

    @classmethod
    def of_text(cls, kind: str, text: str) -> Splat:
        """A report kept as text, as a finding has it."""
        return cls(kind, "fail", (Record(0, 0, 0, 0, "", text),))

    @property
    def family(self) -> str:
        """The kind's first part: "lockdep", "oops", "rcu", ..."""
        return self.kind.split(".")[0]

    @cached_property
    def text(self) -> str:
        """The report as the kernel printed it."""
        return "\n".join(record.text for record in self.records)

    @cached_property
    def lines(self) -> list[str]:
        """The report's lines, without any prefix of the log's."""
        return self.text.split("\n")

    @cached_property
    def name(self) -> titles.Name:
        """Title, functions and what the signature is made of."""
        return _named(self.kind, self.text)

    @property
    def title(self) -> str:
        """A line a kernel developer would write about it."""
        return self.name.title

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions it is about, with other spellings of their names."""
        return self.name.functions

    @property
    def signature(self) -> str:
        """What the same bug has on another machine, kernel and night."""
        return signature.of(self.kind, self.name.key)

    @cached_property
    def frames(self) -> tuple[tuple[Frame, ...], ...]:
        """Its stacks, each with its top first."""
        return frames(self.lines)


@dataclass(slots=True, eq=False)
class _Open:
    kind: Kind
    records: list[Record]
    place: int
    last: int = 1  # records up to the last that is surely the report's
    strangers: int = 0
    stacked: bool = False
    ended: bool = False
    usec: int = 0  # when its caller last spoke, by the clock that runs now
    fed: int = 0  # and which record that was
    headers: set[str] = field(default_factory=set)
    callers: list[str] = field(default_factory=list)


# What a report is made of, where the line is not indented: registers, titles of parts, lockdep's
# prose.  arch/*/kernel/{dumpstack,process,traps}.c, kernel/locking/lockdep.c, mm/*/report.c, ...
_BODY = re.compile(
    r"\s|[<\[{(]|$|(?:[RE]?[A-Z]{2}\d?|R\d{1,2}|[xrv]\d{1,2}|gp\d*|[DC]R\d|pc|lr|sp|fp|ip|psr"
    r"|pstate|epc|[sat]\d{1,2}"
    r"|NIP|LR|MSR|CTR|XER|CFAR|GPR\d\d|PKRU|CS|Code|RIP|RSP|EIP|ESP|Flags|Control|Process|Stack"
    r"|Krnl (?:PSW|GPRS|Code)"
    r"|cause|badaddr|status|Hi|Lo|PrId|\$ ?\d+|ra|tp|gp|Faulting|Call [Tt]race|Backtrace|Trace"
    r"|[Ss]tack backtrace"
    r"|CPU|Hardware name|Modules linked in|Workqueue|Comm|Tainted|Not tainted|task|Thread"
    r"|Sched Debug|Last Breaking"
    r"|Internal error|PC is at|LR is at|Exception stack|pgd|Mem abort info|Data abort info"
    r"|user pgtable|swapper pgtable"
    r"|KASAN|Dumping ftrace|Kernel Offset|Memory Limit|SMP|CPU features|Rebooting in"
    r"|Instruction dump|Read|Write|read"
    r"|write|value|race|assert|Allocated|Freed|Uninit|Local|Bytes?|CPU#|The buggy|Memory state"
    r"|page|raw|flags|Reported by"
    r"|addr|which belongs|index|shift|load|store|signed|unsigned|member|division|negation|object"
    r"|kfence|Corrupted|allocated"
    r"|freed|Last potentially|Second to last|irq event|hardirqs|softirqs|Preemption|in_atomic"
    r"|preempt_count|RCU nest|caller is"
    r"|lock|locks|other info|rcu_scheduler|stack backtrace|inconsistent|but |which |the |and "
    r"|to |other |possible|\d+ locks?"
    r"|no locks|no more|Chain exists|Possible|turning off|The code is|you didn't"
    r"|INFO: lockdep is|maybe|Showing all|=====|-----"
    r"|-> #|-{3}|\*{2,}|Sending NMI|NMI backtrace|rcu|NMI|Mem-Info|active_anon|Node|lowmem|DMA"
    r"|Normal|HighMem|Movable|Hugepage"
    r"|\d+ (?:total|pages|slab)|Swap|Free swap|Total swap|swap_cache|BUG:|WARNING|Oops|PGD|PUD"
    r"|PMD|PTE|P4D|\*?p[gmu]d|Ftrace"
    r"|Pid|EFLAGS|DS|Code|Bad|INFO|Disabling lock|Kernel panic|Sync|Syncing|Padding|Object"
    r"|Redzone|Slab|FIX|comm|backtrace|hex"
    r"|pool|workqueue|in-flight|pending|delayed|#\d|pwq|Exiting|fixed up|note:|dump|mapping|anon"
    r"|aops|vma|vm_|mm |mmap|Kthread"
    r"|\w+ cleanup list|\"echo 0|sysrq|Killed|hung|running|schedule|Krnl|Last|Bank|TSC|PROCESSOR"
    r"|RIP!|MISC|ADDR|SOCKET|MCG"
    r"|Unable|pte|Bogus|Fixing|traps|ODEBUG|refcount|list_|prev|next|[0-9a-f]{4}: "
    r"|[0-9a-f]{8,16}|>?[0-9a-f]{8,16}:)"
    r"(?:\b|(?<=\W))"
)
_ENDS = re.compile(r"\s*---\[ end (?:trace|Kernel panic)|Rebooting in \d|={20,}$|-{10,}$")
_SEPARATED = ("kasan", "kmsan", "kcsan", "kfence", "ubsan")
_ONE_STACK = ("lockdep", "hung_task", "atomic_sleep", "preempt_debug")
# Of these nothing follows the end: kernel/panic.c, __warn(), for the last ones.
_LAST = (*_SEPARATED, *_ONE_STACK, "cut_here", "warning", "refcount")
_PATIENT = ("rcu", "soft_lockup", "hard_lockup", "hung_task", "panic")
# What a machine that stalled prints at last, after a header that came long before.
_STACK_NEXT = re.compile(r"CPU: |Pid: |Modules linked in|[RE]IP: |Call [Tt]race|task:|irq event")
# After "end trace" x86 prints the registers once more, since 4.20 (oops_end).
_AFTER = re.compile(
    r"\s*$|(?:[RE]?[A-Z]{2}\d?|R\d\d|DR\d|CR\d|PKRU|FS|Code|RIP|EIP|CS|Krnl|PC is|LR is)[: ]"
)
_NMI = re.compile(r"NMI backtrace for cpu (\d+)")
# What a report that began with these is, is told by the lines after: the higher one wins.
_RANK = {"cut_here": 0, "warning.odebug": 1, "list_corruption": 1, "warning": 2, "refcount": 3}
# These are printed before the line with the scissors, or after it.
_BEFORE_CUT = ("refcount", "list_corruption", "warning.odebug")
# Within so many records the line that says what a report is follows its first.
_SOON = 16
# init/main.c, arch/*/kernel/setup.c: the first lines of a boot
_BOOTS = ("Linux version ", "Booting Linux on physical CPU")
_BY_NAME = {kind.name: kind for kind in KINDS}


class Finder:
    """Finds the reports in records that are fed one by one.  `idle`: none is open, so that records
    that start none may be passed over."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._reports: list[_Open] = []
        self._usec = 0
        self._fed = 0
        self.began = ""
        """The kind of the header that began the latest report."""

    @property
    def idle(self) -> bool:
        """Whether no report is open."""
        return not self._open

    @property
    def sole(self) -> int:
        """The place of the only open report; 0 where none or more are open."""
        return self._reports[0].place if len(self._reports) == 1 else 0

    def feed(self, record: Record, hinted: bool = True) -> list[Splat]:
        """The reports that this record, or the time it was printed at, ends.  `hinted` is False
        where it is known that the record starts none."""
        self._fed += 1
        if record.facility:
            return []  # userspace wrote it; a report is the kernel's own
        if len(record.text) > WIDEST:
            record = Record(
                record.seq, record.usec, record.level, 0, record.caller, record.text[:WIDEST]
            )
        done: list[Splat] = []
        if self._open:
            self._expire(record, done)
        self._usec = record.usec
        kind = _header(record) if hinted else None
        current = self._open.get(record.caller)
        if kind is not None and kind.alone:
            done.append(Splat(kind.name, kind.severity, (record,), self._fed))
        elif kind is not None and not (current and _joins(current, kind)):
            if current is not None:
                self._close(current, done)
            self._begin(kind, record, done)
        elif current is not None:
            self._append(current, record, kind, done)
        elif (nmi := _NMI.match(record.text)) is not None:
            self._answer(record, nmi[1])
        return done

    def flush(self) -> list[Splat]:
        """The reports that the log's end cut."""
        done: list[Splat] = []
        for report in list(self._reports):
            self._close(report, done)
        return done

    def _begin(self, kind: Kind, record: Record, done: list[Splat]) -> None:
        if len(self._reports) >= MOST_OPEN:
            self._close(min(self._reports, key=lambda report: report.fed), done)
        report = _Open(kind, [], self._fed, headers={kind.name}, callers=[record.caller])
        self._open[record.caller] = report
        self._reports.append(report)
        self.began = kind.name
        self._keep(report, record)

    def _keep(self, report: _Open, record: Record) -> None:
        report.records.append(record)
        report.usec, report.fed = record.usec, self._fed

    def _expire(self, record: Record, done: list[Splat]) -> None:
        if record.text.startswith(_BOOTS):
            done += self.flush()
            return
        if record.usec + SLACK < self._usec:
            # A log put together, or another boot: what follows will tell, by the new clock.
            for report in self._reports:
                report.usec = record.usec
            return
        for report in list(self._reports):
            patience = PATIENT if report.kind.name.split(".")[0] in _PATIENT else SILENCE
            late = record.usec - report.usec > patience
            if late and not _goes_on(report, record.text):
                self._close(report, done)

    def _answer(self, record: Record, cpu: str) -> None:
        """Another CPU prints its stack because a stall's report asked it to."""
        for report in self._reports:
            room = len(report.records) < LONGEST
            if report.kind.name.split(".")[0] in _PATIENT and record.caller and room:
                self._keep(report, record)
                report.last = len(report.records)
                report.callers.append(record.caller)
                self._open[record.caller] = report
                return

    def _append(self, report: _Open, record: Record, kind: Kind | None, done: list[Splat]) -> None:
        if kind is not None:
            report.headers.add(kind.name)
            _sharpen(report, kind)
        lines = record.lines()
        if report.ended and kind is None and not all(_AFTER.match(line) for line in lines):
            self._close(report, done)
            return
        self._keep(report, record)
        known = kind is not None
        for line in lines:
            if frame(line) is not None:
                report.stacked = known = True
            known = known or bool(line.strip() and _BODY.match(line))
            if _is_end(report, line):
                report.ended = True
        if known:
            report.last, report.strangers = len(report.records), 0
        elif record.text.strip():
            report.strangers += 1
        over = report.ended and report.kind.name.split(".")[0] in _LAST
        if over or report.strangers > STRANGERS or len(report.records) >= LONGEST:
            self._close(report, done)

    def _close(self, report: _Open, done: list[Splat]) -> None:
        for caller in report.callers:
            if self._open.get(caller) is report:
                del self._open[caller]
        self._reports.remove(report)
        kind = _BY_NAME["warning"] if report.kind.name == "cut_here" else report.kind
        kept = tuple(report.records[: report.last])
        done.append(Splat(_final(kind, report), kind.severity, kept, report.place))


def _goes_on(report: _Open, text: str) -> bool:
    """Whether a line that comes late is surely the report's still."""
    return frame(text) is not None if report.stacked else bool(_STACK_NEXT.match(text))


def _final(kind: Kind, report: _Open) -> str:
    """A kind that its first line alone does not tell."""
    if kind.name == "warning" or kind.name == "warning.odebug":
        for record in report.records[:8]:
            if record.text.startswith("WARNING: "):
                if "kernel/locking/lockdep.c" in record.text or "kernel/lockdep.c" in record.text:
                    return "lockdep.internal"
                if "lib/refcount.c" in record.text:
                    return "refcount"
    return "warning" if kind.name == "warning.odebug" else kind.name


def _header(record: Record) -> Kind | None:
    text = record.text
    if "\n" not in text:
        return header(text)
    return next((kind for line in text.split("\n") if (kind := header(line))), None)


def _joins(report: _Open, kind: Kind) -> bool:
    """Whether a header is a further line of an open report."""
    name = report.kind.name
    if name in _RANK and len(report.records) <= _SOON and not report.ended:
        # other CPUs' frames may stand between where callers are not told
        if kind.name == "cut_here":
            return name in _BEFORE_CUT and not report.stacked
        if kind.name in report.headers:
            return False  # another one's, and not a further line of this
        if _RANK.get(kind.name, 0) > _RANK[name] or kind.name == "kernel_bug" != name:
            return True
        if kind.name == "hard_lockup":  # the watchdog once said so with a WARN()
            return not report.stacked
        if kind.name == "panic" and name != "cut_here":
            return not report.stacked or len(report.records) <= _SOON // 2
    if report.stacked or report.ended:
        return kind.name == "lockdep.disabled"
    if name == "cut_here":  # UBSAN's, and whatever else begins with it
        return kind.name != name and len(report.records) <= _SOON
    if name in _BEFORE_CUT and kind.name == "warning" and "warning" not in report.headers:
        return True
    if name in _RANK:
        return kind.joins and kind.name not in report.headers
    if report.kind.name == "oops.page_fault" and kind.name == "oops.null":
        return True
    return kind.joins or (kind.name == name == "leak" and len(report.records) == 1)


def _sharpen(report: _Open, kind: Kind) -> None:
    """A report learns what it is from a later line."""
    name = report.kind.name
    if name in _RANK and _RANK.get(kind.name, 9) > _RANK[name]:
        if kind.name != "panic":  # panic_on_warn: its stack is the warning's
            report.kind = kind
    elif name == "oops.page_fault" and kind.name == "oops.null":
        report.kind = kind


def _is_end(report: _Open, line: str) -> bool:
    family = report.kind.name.split(".")[0]
    if family in _ONE_STACK and "</TASK>" in line:
        return True
    if not _ENDS.match(line):
        return False
    if line.startswith("="):
        return family in _SEPARATED
    return not line.startswith("-----")


def stream(records: Iterable[Record]) -> Iterator[Splat]:
    """All reports in `records`, each as it ends."""
    finder = Finder()
    for record in records:
        yield from finder.feed(record)
    yield from finder.flush()


def find(records: Iterable[Record]) -> list[Splat]:
    """All reports in `records`, in the order of their headers."""
    return sorted(stream(records), key=lambda splat: splat.place)


@lru_cache(maxsize=256)
def _named(kind: str, text: str) -> titles.Name:
    """A flood repeats itself: what was just named need not be read again."""
    return titles.of(kind, text.split("\n"))
