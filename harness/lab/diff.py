"""The diff of two nights: what is new, fixed, flaky, missing, slower; and what is as it was.

Like is compared with like only: one test on one target with the same test on the same target.
Decides from results of the history; writes and shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from harness.errors import UsageError
from harness.lab.history import History, Night, Result
from harness.lab.rates import Rate, Slower, slower

__all__ = ["KINDS", "Change", "Diff", "Kind", "compare", "find_night"]

Kind = Literal["new", "changed", "flaky", "missing", "slower", "fixed", "still", "known"]
KINDS: dict[Kind, str] = {
    "new": "new",
    "changed": "fails otherwise than before",
    "flaky": "newly flaky",
    "missing": "did not run",
    "slower": "recovers more slowly",
    "fixed": "fixed",
    "still": "still failing",
    "known": "known issues",
}
"""Every kind of change with its heading, the most urgent first."""

# How many nights back a test's own past is looked at.  What did not run in any of them is
# forgotten, and no longer missed.
WINDOW = 14
# The chance below which a known flake that did not show is taken for fixed.
UNLIKELY = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the diff.

    `test` is "" where a whole target is missing.  `now` is None for what did not run, `before` is
    the last result that proved something, `since` the first of the failures that last until now.
    `elsewhere`: other targets on which the same finding failed in the same night.
    """

    kind: Kind
    target: str
    test: str
    why: str
    now: Result | None = None
    before: Result | None = None
    since: Result | None = None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """`before` is None where each test is compared with its own last result.

    `ran` counts the results of the later night that proved something, `asked` is its targets.
    """

    before: Night | None
    after: Night
    changes: tuple[Change, ...]
    ran: int

    def of(self, *kinds: Kind) -> list[Change]:
        """The changes of some kinds, in order."""
        return [change for change in self.changes if change.kind in kinds]

    @property
    def regressions(self) -> list[Change]:
        """What somebody must look at: new, otherwise failing, newly flaky."""
        return self.of("new", "changed", "flaky")

    @property
    def lab_troubles(self) -> list[Change]:
        """What was asked for and did not run."""
        return [c for c in self.of("missing") if c.target in self.after.targets]


def find_night(nights: Sequence[Night], name: str) -> Night:
    """The night, or run by hand, that is called `name` or the only one that begins so.

    Raises UsageError.
    """
    wanted = name.rstrip("/").rpartition("/")[2]
    found = [n for n in nights if n.name == wanted]
    found = found or [n for n in nights if n.name.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    few = ", ".join(n.name for n in (found or nights)[:5]) or "none; lab history add RUNS"
    raise UsageError(
        f"{'several nights begin' if found else 'no night is called'} so: {name!r}",
        where="the history",
        cure=f"one of: {few}",
    )


def compare(
    history: History, before: str = "", after: str = "", rates: Mapping[str, float] | None = None
) -> Diff:
    """What changed from `before` to `after`: names of nights or runs.

    Without `after` the newest nightly; without `before` each test's own last result.  `rates` are
    those of known flakes, by the entry's name.  Raises UsageError where there is no such night.
    """
    nightlies = history.nights()
    every = history.nights(nightly=False) if before or after else nightlies
    if not after and not nightlies:
        raise UsageError(
            "no nightly is in the history",
            where=history.url,
            cure="lab nightly; or name two runs, after lab history add RUN...",
        )
    now = find_night(every, after) if after else nightlies[0]
    then = find_night(every, before) if before else None
    past = [n for n in nightlies if (n.started, n.name) < (now.started, now.name)][:WINDOW]
    if then is not None:
        past = [then, *(n for n in past if n.started < then.started)]
    found = history.results(nights=[now.name, *(n.name for n in past)])
    pasts: dict[tuple[str, str], list[Result]] = {}
    nows: dict[tuple[str, str], list[Result]] = {}
    for result in found:
        into = nows if result.night == now.name else pasts
        into.setdefault((result.target, result.test), []).append(result)
    failing = _failing(nows)
    changes = []
    for key in sorted({*pasts, *nows}):
        earlier = pasts.get(key, [])
        if then is not None and not any(r.night == then.name for r in earlier):
            earlier = []
        changes += _changes(key, nows.get(key, []), earlier, now, failing, rates or {})
    changes = _whole_targets(changes, now, nows)
    order = list(KINDS)
    changes.sort(key=lambda change: (order.index(change.kind), change.target, change.test))
    judged = sum(result.judged for results in nows.values() for result in results)
    return Diff(then, now, tuple(changes), judged)


def _changes(
    key: tuple[str, str],
    nows: list[Result],
    earlier: list[Result],
    night: Night,
    failing: Mapping[str, set[str]],
    rates: Mapping[str, float],
) -> list[Change]:
    target, test = key
    judged = [result for result in nows if result.judged]
    past = [result for result in earlier if result.judged]
    last = past[-1] if past else None
    if not judged:
        # An error or a blind test was asked for and proves nothing: that is told, past or none.
        if last is None and not any(result.outcome in ("error", "blind") for result in nows):
            return []
        why = _why_not(nows, night, target)
        return [Change("missing", target, test, why, nows[-1] if nows else None, last)]
    bad = [result for result in judged if result.bad]
    good = [result for result in judged if result.outcome == "pass"]
    made: list[Change] = []

    def change(kind: Kind, why: str, now: Result) -> Change:
        signs = set(now.signatures)
        others = {o for sign in signs for o in failing.get(sign, ())} - {target}
        since = _since(earlier, now) if kind in ("new", "changed", "still", "known") else None
        return Change(kind, target, test, why, now, last, since, tuple(sorted(others)))

    if bad:
        made.append(change(*_failed(bad, good, judged, past)))
    elif excused := [result for result in judged if result.known]:
        kind, why = _excused(excused[-1], judged, past, rates)
        made.append(change(kind, why, excused[-1]))
    elif good:
        made += [change(kind, why, good[-1]) for kind, why in _passed(good, past, rates)]
        made += [change("slower", str(slow), good[-1]) for slow in _slow(good, past)]
    return made


def _failed(
    bad: list[Result], good: list[Result], judged: list[Result], past: list[Result]
) -> tuple[Kind, str, Result]:
    """What failures of a night are, beside the passes `good` of the same night."""
    now = bad[-1]
    why = now.reason.split("\n")[0]
    before = {sign for result in past if _fell(result) for sign in result.signatures}
    unseen = [result for result in bad if not set(result.signatures) <= before]
    rate = _rate([*past, *judged], now.build)
    if good or _turns(judged) >= 2:
        return (
            ("still" if _flaky(past, now.build) and not unseen else "flaky"),
            (f"{why}: {rate} on this kernel"),
            now,
        )
    if not past or not _fell(past[-1]):
        if unseen or not _flaky([*past, *judged], now.build):
            return "new", why, (unseen or bad)[-1]
        known = _flaky(past, now.build)
        return ("still" if known else "flaky"), f"{why}: {rate} on this kernel", now
    if unseen:
        return "changed", f"{why}; before: {past[-1].reason.split(chr(10))[0]}", unseen[-1]
    return "still", why, now


def _passed(
    good: list[Result], past: list[Result], rates: Mapping[str, float]
) -> list[tuple[Kind, str]]:
    """What it means that a test passes."""
    said = list(dict.fromkeys(name for result in good for name in result.fixed))
    if not past:
        return []
    build = good[-1].build
    if _fell(past[-1]) and _flaky([*past, *good], build):
        if _flaky(past, build) or set(past[-1].known) & rates.keys():
            return []  # as a flake does
        told = f"passes again on the same kernel: {_rate([*past, *good], build)}"
        return [("flaky", f"{told}; before: {past[-1].reason.split(chr(10))[0]}")]
    if _fell(past[-1]):
        flakes = set(past[-1].known) & rates.keys()
        if flakes:
            return []
        named = f"known issue {', '.join(said)} did not show; " if said else ""
        return [("fixed", f"{named}before: {past[-1].reason.split(chr(10))[0]}")]
    for name, rate in rates.items():
        shown = [i for i, result in enumerate(past) if name in result.known]
        quiet = len(past) - shown[-1] - 1 if shown else 0
        # The night in which it becomes unlikely, and no other: once is enough to be told.
        if shown and (1 - rate) ** (quiet + len(good)) < UNLIKELY <= (1 - rate) ** quiet:
            many = quiet + len(good)
            return [("fixed", f"known flake {name} did not show in {many} runs (rate {rate:.0%})")]
    return []


def _excused(
    now: Result, judged: list[Result], past: list[Result], rates: Mapping[str, float]
) -> tuple[Kind, str]:
    """A failure that is known; a flake that fails much more often than it is said to is none."""
    for name in now.known:
        if name in rates:
            seen = [*past, *judged]
            rate = Rate(sum(name in result.known for result in seen), len(seen))
            if rate.interval()[0] > rates[name]:
                return "changed", f"known flake {name} (rate {rates[name]:.0%}) is worse: {rate}"
    return "known", now.reason.split("\n")[0]


def _slow(good: list[Result], past: list[Result]) -> list[Slower]:
    """Durations that stand out above the test's own on the same target, whatever the kernel."""
    found = []
    for what in sorted({word for result in good for word in result.times}):
        now = [result.times[what] for result in good if what in result.times]
        before = [r.times[what] for r in past if r.outcome == "pass" and what in r.times]
        if slow := slower(what, now, before):
            found.append(slow)
    return found


def _fell(result: Result) -> bool:
    """Whether the kernel failed, known or not."""
    return result.bad or bool(result.known)


def _turns(results: Iterable[Result]) -> int:
    """How often a test went from failing to passing or back."""
    fell = [_fell(result) for result in results]
    return sum(one != other for one, other in pairwise(fell))


def _flaky(results: Iterable[Result], build: str) -> bool:
    """Whether on one and the same kernel a test went over to the other side and came back."""
    return _turns(result for result in results if result.build == build) >= 2


def _rate(results: Iterable[Result], build: str) -> Rate:
    same = [result for result in results if result.build == build]
    return Rate(sum(map(_fell, same)), len(same))


def _since(earlier: list[Result], now: Result) -> Result:
    """The first of the failures with a finding of `now`'s that no pass has interrupted."""
    first = now
    for result in reversed(earlier):
        if result.judged and not (_fell(result) and set(result.signatures) & set(now.signatures)):
            break
        first = result if result.judged else first
    return first


def _failing(nows: Mapping[tuple[str, str], list[Result]]) -> dict[str, set[str]]:
    """On which targets each signature failed."""
    found: dict[str, set[str]] = {}
    for (target, _), results in nows.items():
        for result in results:
            for sign in result.signatures:
                found.setdefault(sign, set()).add(target)
    return found


def _why_not(nows: list[Result], night: Night, target: str) -> str:
    """Why a test proves nothing in a night."""
    trouble = night.troubles.get(target, "")
    if nows:
        told = nows[-1].reason.split("\n")[0] or "no reason given"
        return f"{nows[-1].outcome}: {told}"
    if trouble:
        return trouble
    if target not in night.targets:
        return "the target was not asked for"
    return "was not run" if night.how == "done" else "the night ended before"


def _whole_targets(
    changes: list[Change], night: Night, nows: Mapping[tuple[str, str], list[Result]]
) -> list[Change]:
    """One change for a target of which nothing ran, instead of one for each test; and one for a
    target that had no past, and no luck."""
    ran = {target for (target, _), results in nows.items() if any(r.judged for r in results)}
    missing: dict[str, list[Change]] = {}
    kept = []
    for change in changes:
        if change.kind == "missing" and change.target not in ran:
            missing.setdefault(change.target, []).append(change)
        else:
            kept.append(change)
    for target, why in night.troubles.items():
        if target not in ran:
            missing.setdefault(target, [Change("missing", target, "", why)])
    for target, several in missing.items():
        last = max((c.before for c in several if c.before), key=lambda r: r.started, default=None)
        why = several[0].why
        tests = sum(bool(change.test) for change in several)
        told = f"{why} ({tests} test{'s' * (tests != 1)})" if tests else why
        kept.append(Change("missing", target, "", told, None, last))
    return kept
