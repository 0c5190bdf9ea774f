"""A lockdep report, parsed: the locks, the chain with a stack for each link, who holds what.

Any kernel from 2.6.18 to 7.x, whole or cut short: what is not there is None or empty.
Source of the wording: kernel/locking/lockdep.c, print_circular_bug() and friends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.kernel.lockdep_lines import Lock, joined, lock_in, locks_in, named, plumbing
from harness.kernel.records import WIDEST
from harness.kernel.stack import Frame, frame

__all__ = ["Holder", "Link", "Lock", "Report", "Step", "parse"]

# Kind (dotted, as splats have it), header, what the title calls it.
_KINDS = tuple(
    (kind, re.compile(header), what)
    for kind, header, what in (
        ("circular", r"possible circular locking dependency", ""),
        ("recursive", r"possible recursive locking", ""),
        ("inconsistent", r"inconsistent lock state", ""),
        ("irq_unsafe", r"[\w-]+-safe -> [\w-]+-unsafe lock order", ""),
        ("irq_inversion", r"possible irq lock inversion dependency", ""),
        ("wait_context", r"Invalid wait context", ""),
        ("nested", r"Nested lock was not taken", ""),
        ("bad_unlock", r"bad unlock balance", ""),
        ("held_freed", r"held lock freed", ""),
        ("still_held", r"(?:still has locks held|lock held at task exit time)", "locks still held"),
        ("still_held", r"lock held when returning to user space", ""),
        ("rcu", r"suspicious (?:RCU|rcu_\w+\(\)) usage", "suspicious RCU usage"),
        ("nonstatic_key", r"trying to register non-static key", ""),
        ("bad_unlock", r"bad contention", ""),
        ("internal", r"chain_key collision", ""),
        ("internal", r"looking up invalid subclass", ""),
        ("internal", r"key \S+ has not been registered", "a lock's key is not registered"),
        ("off", r"MAX_\w+ too low", ""),
    )
)
# A header stands alone on its line, after "WARNING:", or "[ INFO:", "[ BUG:" before 4.11; of the
# marks before it a cut line may have lost some.
_MARK = re.compile(r"^\W*(?:(?:WARNING|INFO|BUG): )(?P<rest>.*)$")
# A check of lockdep's own, or of a lock's, that failed: a WARNING that switches lockdep off.
_WARN_ON = re.compile(r"^\W*(?P<what>DEBUG_LOCKS_WARN_ON\(.*\))\s*$")
# No report begins with them, yet each starts a part of one.
_TASK = re.compile(
    r"^\s*(?P<task>\S.*?/\d+)(?: \[HC.*?\])? (?:is (?:trying|leaving|freeing|exiting)|just changed"
    r"|takes:)"
)
_WANTED = re.compile(
    r"is trying to (?:acquire(?: lock)?|lock):|just changed the state of|\] takes:"
)
_HELD = re.compile(r"already holding(?: lock)?:|is not holding:|lock in the past:")
_RELEASED = re.compile(r"is trying to (?:release|contend) lock \((?P<name>.*)\) at:")
_LINK = re.compile(r"^\s*-> ?#(?P<depth>\d{1,18})")
_BARE_LINK = re.compile(r"^\s*-> ?#\d+\s*\((?P<name>.*)\):?\s*$")
_HOLDER = re.compile(r"^\s*(?:no|\d+) locks? held by (?P<task>.+?)[.:]?\s*$")
_HOLDS = re.compile(r"^\s*#(?P<nth>\d+):")
_DO = re.compile(r"^(?P<indent>\s*)(?P<do>r?lock|sync)\((?P<name>.*)\);")
_INTERRUPT = re.compile(r"^(?P<indent>\s*)(?P<do><Interrupt>|local_irq_disable\(\);)")
_USAGE = re.compile(r"inconsistent \{(?P<before>.*?)\} -> \{(?P<after>.*?)\} usage")
_CONTEXT = re.compile(r"^context-\{(?P<outer>\d{1,18}):(?P<inner>\d{1,18})\}")
_BECAME = re.compile(
    r"which became (?P<what>\S+-irq-(?:un)?safe|\S+-(?:un)?safe) at:"
    r"|^\{(?P<usage>.*?)\} state was registered at:"
)
_BACKTRACE = re.compile(r"^\s*(?:stack backtrace:|Call [Tt]race:)")
_AT_FILE = re.compile(r"^\s*(?P<file>\S+):\d+ (?:suspicious|\S.*!$)")
_OTHER_CPU = 16


@dataclass(frozen=True, slots=True)
class Link:
    """One lock of the dependency chain and the stack of whoever took it, holding the one
    before: of #0 the reporter's own, holding the last."""

    depth: int
    lock: Lock
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the scenario: CPU, `lock`, `rlock`, `sync`, `<Interrupt>`, ..., and the class."""

    cpu: int
    does: str
    lock: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A task ("comm/pid") and the locks it holds, the oldest first."""

    task: str
    locks: tuple[Lock, ...]


@dataclass(slots=True)
class Report:
    """A lockdep report, read.

    `links` as printed: the deepest first, #0 last.  `order`: the new dependency, or the chain
    of classes of "Chain exists of".  `usage`: what an inconsistent lock was and became;
    `became`: the stacks in which a lock became safe, unsafe or used so.  `context`: the wait type
    that an invalid one is under.
    """

    kind: str
    what: str
    task: str = ""
    wanted: Lock | None = None
    held: Lock | None = None
    links: list[Link] = field(default_factory=list)
    order: tuple[str, ...] = ()
    usage: tuple[str, str] | None = None
    context: tuple[int, int] | None = None
    became: list[tuple[str, tuple[Frame, ...]]] = field(default_factory=list)
    scenario: list[Step] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    backtrace: tuple[Frame, ...] = ()
    file: str = ""

    @property
    def wanted_in(self) -> str:
        """The function that takes the wanted lock, past those that only lock or allocate."""
        return _culprit(self.wanted, self._taking)

    @property
    def held_in(self) -> str:
        """The function that took the held lock; "" where only boot priming did."""
        return _culprit(self.held, ())

    @property
    def _taking(self) -> tuple[Frame, ...]:
        return next((link.frames for link in self.links if link.depth == 0), ()) or self.backtrace

    @property
    def subject(self) -> Lock | None:
        """The lock that the report is about."""
        if self.wanted is not None:
            return self.wanted
        held = self.holders[0].locks if self.holders else ()
        return held[-1] if held else None

    @property
    def title(self) -> str:
        """A line a kernel developer would write; built from names only."""
        lock = self.subject
        if self.kind in _OF_A_PLACE or lock is None:
            function = self.wanted_in
            return f"{self.what} in {function}" if function else self.what
        title = f"{self.what}: {_in(lock.label, self._subject_in)}"
        if self.held and self.kind != "lockdep.nested":
            return title + f" while holding {_in(self.held.label, self.held_in)}"
        if self.usage:
            return title + f", {{{self.usage[0]}}} -> {{{self.usage[1]}}}"
        return title

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two reports the same bug, on any kernel and machine."""
        lock = None if self.kind in _OF_A_PLACE else self.subject
        return (
            self.kind,
            lock.key if lock else "",
            self._subject_in,
            self.held.key if self.held else "",
            self.held_in,
            *((self.what, self.file) if self.kind in _OF_A_PLACE else ()),
        )

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that the title names, and those that lockdep itself did."""
        said = (lock.where for lock in (self.subject, self.held) if lock)
        names = (self._subject_in, self.held_in, *said)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def _subject_in(self) -> str:
        if self.wanted or self.kind in _OF_A_PLACE:
            return self.wanted_in
        return _culprit(self.subject, ()) or self.wanted_in


# Reports that are about a place in the code, whatever locks the task holds.
_OF_A_PLACE = ("rcu.suspicious", "lockdep.nonstatic_key", "lockdep.internal", "lockdep.off")


def _in(label: str, function: str) -> str:
    return f"{label} in {function}" if function else label


# dma_resv_lockdep() tells lockdep at boot that reclaim may wait for a fence: on all machines.
_PRIMING = ("__dma_fence_might_wait", "dma_resv_lockdep")


def _culprit(lock: Lock | None, frames: Sequence[Frame]) -> str:
    """The function to name: lockdep's own word, unless that is plumbing and the stack knows
    who called it."""
    said = lock.where if lock else ""
    if said and not plumbing(said):
        return "" if said in _PRIMING else said
    certain = [f.function for f in frames if f.certain] or [f.function for f in frames]
    below = certain[certain.index(said) :] if said in certain else certain
    return next((name for name in below if not plumbing(name) and name not in _PRIMING), said)


def parse(lines: Sequence[str]) -> Report | None:
    """The lockdep report in `lines` (prefixes stripped), or None."""
    # rsyslog writes a line feed inside a message as "#012".
    split = (line for text in lines for line in text.replace("#012", "\n").split("\n"))
    whole = joined([line[:WIDEST] for line in split])
    for at, line in enumerate(whole):
        if report := _headed(line):
            _Reader(report, whole[at + 1 :]).read()
            return report
    return None


def _headed(line: str) -> Report | None:
    if failed := _WARN_ON.match(line):
        return Report("lockdep.internal", failed["what"])
    mark = _MARK.match(line)
    if mark is None:
        return None
    rest = mark["rest"].strip(" ]")
    for kind, header, what in _KINDS:
        if header.search(rest):
            said = what or re.sub(r"(?: detected)?\s*[!.]?$", "", rest)
            return Report("rcu.suspicious" if kind == "rcu" else f"lockdep.{kind}", said)
    return None


class _Reader:
    """One pass over the lines after the header."""

    def __init__(self, report: Report, lines: Sequence[str]) -> None:
        self._report = report
        self._lines = lines
        # Who gets the frames that come now: a link, what a lock became, or the backtrace.
        self._link: tuple[int, Lock] | None = None
        self._became = ""
        self._frames: list[Frame] = []
        self._tracing = False
        self._holder: tuple[str, list[Lock]] | None = None

    def read(self) -> None:
        for at, line in enumerate(self._lines):
            if _headed(line) is not None:
                break
            self._line(at, line)
        self._flush()
        if self._holder:
            self._report.holders.append(Holder(self._holder[0], tuple(self._holder[1])))
        report = self._report
        if report.wanted is None and report.kind == "lockdep.held_freed":
            report.wanted = next((lock for line in self._lines if (lock := lock_in(line))), None)

    def _line(self, at: int, line: str) -> None:
        report = self._report
        if not report.task and (task := _TASK.match(line)):
            report.task = task["task"]
        if _WANTED.search(line):
            report.wanted = report.wanted or self._lock_after(at)
        elif _HELD.search(line):
            report.held = report.held or self._lock_after(at)
        elif released := _RELEASED.search(line):
            report.wanted = named(released["name"], self._after(at))
        elif usage := _USAGE.search(line):
            report.usage = (usage["before"], usage["after"])
        elif link := _LINK.match(line):
            self._begin_link(int(link["depth"]), line)
        elif holder := _HOLDER.match(line):
            self._begin_holder(holder["task"])
        elif self._holder and _HOLDS.match(line):
            self._holder[1].extend(locks_in(line)[:1])
        elif line.lstrip().startswith("Chain exists of:"):
            report.order = report.order or self._chain_after(at)
        elif line.startswith("which would create a new lock dependency"):
            report.order = tuple(lock.label for lock in self._locks_after(at))
        elif _BACKTRACE.match(line):
            self._flush()
            self._tracing = True
        elif became := _BECAME.search(line):
            self._flush()
            self._became = became["what"] or became["usage"]
        elif context := _CONTEXT.match(line):
            report.context = (int(context["outer"]), int(context["inner"]))
        elif not report.file and (file := _AT_FILE.match(line)):
            report.file = file["file"]
        elif not self._scene(line):
            self._frame(line)

    def _frame(self, line: str) -> None:
        if not (self._link or self._tracing or self._became):
            return
        if line.startswith(("other info that might help", "irq event stamp")) or (
            self._became and lock_in(line)
        ):
            self._flush()
        elif found := frame(line):
            self._frames.append(found)

    def _begin_link(self, depth: int, line: str) -> None:
        self._flush()
        lock = lock_in(line)
        if lock is None and (bare := _BARE_LINK.match(line)):
            lock = named(bare["name"])
        if lock is not None:
            self._link = (depth, lock)

    def _begin_holder(self, task: str) -> None:
        self._flush()
        if self._holder:
            self._report.holders.append(Holder(self._holder[0], tuple(self._holder[1])))
        self._holder = (task, [])

    def _flush(self) -> None:
        frames = tuple(self._frames)
        if self._link:
            self._report.links.append(Link(*self._link, frames))
        elif self._became:
            self._report.became.append((self._became, frames))
        elif self._tracing and not self._report.backtrace:
            self._report.backtrace = frames
        self._link, self._became, self._frames, self._tracing = None, "", [], False

    def _scene(self, line: str) -> bool:
        """A line of the scenario, whose second column is the other CPU's."""
        if does := _DO.match(line):
            lock = named(does["name"]).label
        elif does := _INTERRUPT.match(line):
            lock = ""
        else:
            return False
        self._flush()
        cpu = int(len(does["indent"]) >= _OTHER_CPU)
        self._report.scenario.append(Step(cpu, does["do"].removesuffix("();"), lock))
        return True

    def _following(self, at: int) -> Iterator[str]:
        return (line for line in self._lines[at + 1 : at + 6] if line.strip())

    def _after(self, at: int) -> str:
        return next(self._following(at), "")

    def _locks_after(self, at: int) -> tuple[Lock, ...]:
        return next((locks for line in self._following(at) if (locks := locks_in(line))), ())

    def _lock_after(self, at: int) -> Lock | None:
        return next(iter(self._locks_after(at)), None)

    def _chain_after(self, at: int) -> tuple[str, ...]:
        names = self._after(at).split("-->")
        return tuple(named(name).label for name in names) if len(names) > 1 else ()
