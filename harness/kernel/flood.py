"""A report that a log repeats, recognised by its bytes: only the first few of a flood are read.

What stood from a report's header to the next becomes a pattern in which the numbers are free, as
far as no signature depends on them; text that matches it is that report once more.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from harness.kernel.kinds import header
from harness.kernel.splats import Splat

__all__ = ["Flood", "Form", "Run", "Unit"]

# Reports of one signature that are read before a pattern is made of one; a report longer than
# this, in bytes, gets none.
_READ = 4
_LONGEST = 1 << 15
# Patterns kept, and counters of signatures.
_MOST, _MOST_SEEN = 32, 1024
# Callers in one report with what follows it.
_MOST_CALLERS = 4
# A pattern takes some milliseconds to make: another one must have been earned by reports skipped.
_CREDIT, _EARNED = 16.0, 0.05
# In the titles of these stand numbers, or a lock's name is told from another's by one.
_NUMBERED = ("lockdep", "mce")

# What stands before the text: a level or facility must be the same, a time and a number need not.
_PREFIX = re.compile(
    rb"(?P<kmsg>\d{1,2}),\d{1,18},\d{1,18},-(?P<more>[^;\n]*);"
    rb"|(?!\d+,\d)(?P<level><\d{1,3}>)?(?:\[ *\d{1,12}\.\d{6}\](?:\[ *(?P<caller>[TC]\d+)\])? )?"
)
_CALLER = re.compile(rb",caller=([TC]\d+)")
# As harness.kernel.signature.steady() leaves them out; a word of letters alone stays.
_NUMBER = re.compile(
    rb"(?<=\+)0x[0-9a-f]+/0x[0-9a-f]+|\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)[0-9a-f]{6,}\b|\b\d+\b"
    rb"|\b\d\d(?=T\d\d:)|(?<=\dT)\d\d(?=:)"  # of ISO 8601
)


@dataclass(slots=True)
class Form:
    """The pattern of one report, with one that was read of it.  `head`: the kind of its header;
    `closes`: the kinds of headers that end it, "" where it ends by itself."""

    pattern: re.Pattern[bytes]
    splat: Splat
    head: str
    closes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Unit:
    """A report and what follows it up to the next: where in a block it begins, -1 where anything
    else is in it, and the report once it has ended."""

    start: int = -1
    ended: Splat | None = None


@dataclass(slots=True)
class Run:
    """Reports of one form in a stretch of text, and where the last of them begins."""

    form: Form
    times: int = 0
    last: int = 0


class Flood:
    """The forms of the reports that come again."""

    def __init__(self) -> None:
        self._forms: list[Form] = []
        self._seen: Counter[str] = Counter()
        self._credit = _CREDIT

    def __bool__(self) -> bool:
        """Whether any is known."""
        return bool(self._forms)

    def learn(self, unit: bytes, splat: Splat, closed_by: str) -> None:
        """`unit`, whole lines from a header on, was nothing but `splat`, which a header of the
        kind `closed_by` ended right after it, or "" something in it."""
        if len(unit) > _LONGEST or splat.family in _NUMBERED:
            return
        signature = splat.signature
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[signature] += 1
        if self._seen[signature] < _READ:
            return
        for form in self._forms:
            if form.pattern.fullmatch(unit):
                form.closes.add(closed_by)
                return
        if self._credit >= 1 and (pattern := _pattern(unit)) is not None:
            self._credit -= 1
            made = Form(pattern, splat, _head(splat), {closed_by})
            self._forms = [made, *self._forms[: _MOST - 1]]

    def known(self, block: bytes, start: int, end: int) -> Form | None:
        """The form of just what stands there, if a header might end it."""
        for form in self._forms:
            if form.pattern.fullmatch(block, start, end):
                return form
        return None

    def follow(self, block: bytes, at: int, before: Form | None) -> tuple[list[Run], int]:
        """The reports of known form that stand from `at` on, one right after the other, less the
        last, and where that one begins: it is to be read, since nothing says yet how it ends.
        `before` is the one that is open at `at`."""
        runs: dict[int, Run] = {}
        latest: Form | None = None
        last = at
        while (found := self._one(block, at)) is not None and _ends(before, found[0]):
            if latest is not None:
                _count(runs, latest, 1, last)
            latest, end = found
            times, last, previous = 0, at, at
            if _ends(latest, latest):
                match = latest.pattern.match
                while (again := match(block, end)) is not None:
                    times, previous, last, end = times + 1, last, end, again.end()
            if times:
                _count(runs, latest, times, previous)
            at, before = end, latest
        skipped = sum(run.times for run in runs.values())
        self._credit = min(self._credit + _EARNED * skipped, _CREDIT)
        return list(runs.values()), last

    def _one(self, block: bytes, at: int) -> tuple[Form, int] | None:
        for place, form in enumerate(self._forms):
            if (match := form.pattern.match(block, at)) is not None:
                if place:  # the next one may well be of the same
                    self._forms.insert(0, self._forms.pop(place))
                return form, match.end()
        return None


def _ends(before: Form | None, form: Form) -> bool:
    """Whether a report ends where one of `form` begins."""
    return before is None or "" in before.closes or form.head in before.closes


def _count(runs: dict[int, Run], form: Form, times: int, last: int) -> None:
    run = runs.setdefault(id(form), Run(form))
    run.times += times
    run.last = last


def _head(splat: Splat) -> str:
    kind = header(splat.records[0].lines()[0])
    return kind.name if kind is not None else splat.kind


def _pattern(unit: bytes) -> re.Pattern[bytes] | None:
    """What matches `unit` with other numbers, times and callers; None where some lines name their
    caller and others do not."""
    parts: list[bytes] = []
    callers: list[bytes] = []
    for line in unit.splitlines(keepends=True):
        prefix = _PREFIX.match(line)
        if prefix is None:
            return None
        parts.append(_free_prefix(prefix, callers))
        at = prefix.end()
        for number in _NUMBER.finditer(line, at):
            parts += re.escape(line[at : number.start()]), _free(number[0])
            at = number.end()
        parts.append(re.escape(line[at:]))
    if len(callers) > (1 if b"" in callers else _MOST_CALLERS):
        return None
    return re.compile(b"".join(parts))


def _free_prefix(prefix: re.Match[bytes], callers: list[bytes]) -> bytes:
    if prefix["kmsg"] is not None:
        more = prefix["more"]
        caller = _CALLER.search(more)
        start, end = caller.span(1) if caller else (0, 0)
        free = re.escape(more[:start]) + _same(more[start:end], callers) + re.escape(more[end:])
        return prefix["kmsg"] + rb",\d++,\d++,-" + free + b";"
    same = _same(prefix["caller"] or b"", callers)
    free = prefix["level"] or b""
    if b"[" in prefix[0]:
        free += rb"\[ *+\d++\.\d{6}\]" + (rb"\[ *+" + same + rb"\]" if same else b"") + b" "
    return free


def _same(caller: bytes, callers: list[bytes]) -> bytes:
    """Any caller, but the one that an earlier line of `caller` had."""
    if caller in callers:
        return b"(?P=c%d)" % callers.index(caller) if caller else b""
    callers.append(caller)
    return rb"(?P<c%d>[TC]\d++)" % (len(callers) - 1) if caller else b""


def _free(number: bytes) -> bytes:
    if number.startswith(b"0x"):
        return rb"0x[0-9a-f]++(?:/0x[0-9a-f]++)?+" if b"/" in number else rb"0x[0-9a-f]++"
    # An address may have no letter in it just here.
    return rb"[0-9a-f]++" if len(number) >= 6 else rb"\d++"
