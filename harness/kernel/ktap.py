"""KTAP, as KUnit and kselftest print it into the kernel log, read to subtests.

Documentation/dev-tools/ktap.rst, and TAP 14 as KUnit printed it before (5.5 to 5.17).  Other
lines of the log may stand between; a run that was cut says which tests are missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Outcome", "Subtest", "parse"]

Outcome = Literal["pass", "fail", "skip", "missing"]

_VERSION = re.compile(r"^(?P<indent> *)K?TAP version \d+\s*$")
_SUBTEST = re.compile(r"^(?P<indent> *)# Subtest: (?P<name>.*\S)\s*$")
_PLAN = re.compile(r"^(?P<indent> *)1\.\.(?P<count>\d{1,18})(?:\s*# SKIP.*)?\s*$")
_RESULT = re.compile(
    r"^(?P<indent> *)(?P<not>not )?ok (?P<number>\d{1,18})(?: -)?(?: (?P<name>.*?))?"
    r"(?:\s+# ?(?P<directive>SKIP|XFAIL|XPASS|TODO|TIMEOUT|ERROR)\b\s*(?P<why>.*))?\s*$"
)
_SAID = re.compile(r"^(?P<indent> *)# (?P<said>.*\S)\s*$")
# A broken plan is no reason to list a billion missing tests; nor are lines without an end kept.
_MOST_MISSING, _MOST_SAID = 1000, 200


@dataclass(frozen=True, slots=True)
class Subtest:
    """One result.  `path`: suite, then test, then case.  `why`: what came with SKIP or the like;
    `said`: the diagnostics before the result, as printed."""

    path: tuple[str, ...]
    outcome: Outcome
    why: str = ""
    said: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path as one word, as `pytest` and `igt_runner` would have it."""
        return "/".join(self.path)


@dataclass(slots=True)
class _Level:
    indent: int
    name: str = ""
    plan: int = 0
    seen: int = 0
    done: list[Subtest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def parse(lines: Iterable[str]) -> Iterator[Subtest]:
    """The results in `lines` (prefixes stripped), each suite's after those of its tests.

    Nothing is a result that no "KTAP version" or "# Subtest:" came before.
    """
    levels: list[_Level] = []
    for line in lines:
        if match := _VERSION.match(line) or _SUBTEST.match(line):
            yield from _open(levels, len(match["indent"]), match.groupdict().get("name") or "")
        elif levels and (match := _PLAN.match(line)):
            yield from _cut(levels, len(match["indent"]))
            if levels:
                levels[-1].plan = int(match["count"])
        elif levels and (match := _RESULT.match(line)):
            yield from _result(levels, match)
        elif levels and (match := _SAID.match(line)):
            _say(levels, match["said"])
    yield from _cut(levels, -1)


def _open(levels: list[_Level], indent: int, name: str) -> Iterator[Subtest]:
    """A header: of a level of its own, or the second line of the one that "KTAP version" began."""
    top = levels[-1] if levels else None
    if top is not None and top.indent == indent and not (top.seen or (top.name and name)):
        top.name = top.name or name
        return
    yield from _cut(levels, indent - 1)
    if not levels and indent:
        # lib/kunit/executor.c: a module's suites begin no level of their own, and end in it
        levels.append(_Level(0))
    levels.append(_Level(indent, name))


def _result(levels: list[_Level], match: re.Match[str]) -> Iterator[Subtest]:
    indent, inner = len(match["indent"]), list[Subtest]()
    name = (match["name"] or "").strip() or f"#{match['number']}"
    while levels and levels[-1].indent > indent:
        level = levels.pop()
        inner = [*_finished(level), *inner]
        inner = [_under(name, test) for test in inner]
        if levels and levels[-1].indent > indent:
            levels[-1].done += inner
            inner = []
    if not levels:
        levels.append(_Level(indent))
    level = levels[-1]
    said, level.said = tuple(level.said), []
    level.seen = max(level.seen + 1, min(int(match["number"]), level.seen + _MOST_MISSING))
    outcome = _outcome(match)
    done = [*inner, Subtest((name,), outcome, (match["why"] or "").strip(), said)]
    if len(levels) == 1:
        yield from done
    else:
        level.done += done


def _outcome(match: re.Match[str]) -> Outcome:
    if match["directive"] in ("SKIP", "TODO", "XFAIL"):
        return "skip"
    return "fail" if match["not"] else "pass"


def _under(name: str, test: Subtest) -> Subtest:
    return Subtest((name, *test.path), test.outcome, test.why, test.said)


def _finished(level: _Level) -> list[Subtest]:
    """A level's results, and those its plan promised and the log does not hold."""
    unseen = range(level.seen + 1, min(level.plan, level.seen + _MOST_MISSING) + 1)
    return [*level.done, *(Subtest((f"#{number}",), "missing") for number in unseen)]


def _cut(levels: list[_Level], indent: int) -> Iterator[Subtest]:
    """Levels deeper than `indent` that end without a result of their own: the run was cut."""
    while levels and levels[-1].indent > indent:
        level = levels.pop()
        found = _finished(level)
        name = level.name or (f"#{levels[-1].seen + 1}" if levels else "")
        if name and (levels or level.name):
            found = [_under(name, test) for test in found]
        if levels:
            found.append(Subtest((name,), "missing", said=tuple(level.said)))
            levels[-1].seen += 1
            levels[-1].done += found
            if len(levels) == 1:
                yield from levels[-1].done
                levels[-1].done = []
        else:
            yield from found


def _say(levels: list[_Level], said: str) -> None:
    if len(levels[-1].said) < _MOST_SAID:
        levels[-1].said.append(said)
