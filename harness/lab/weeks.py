"""What a site shows of the last weeks, gathered from the history a night at a time.

Only sums and the few results that get a page of their own are kept: a hundred targets with two
hundred tests make 20,000 results a night.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.lab.history import History
from harness.lab.past import Night, Result
from harness.lab.strips import Grid

__all__ = ["Spread", "Weeks", "case_id", "gather"]

# Sightings of one finding that get a page: the first, and the last few.
SIGHTINGS = 12
# Results of the newest night that get a page each even where they passed.
CALM = 600


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations of one night on one target, in seconds."""

    low: float
    middle: float
    high: float
    count: int


@dataclass(slots=True)
class Weeks:
    """`latest`: of the newest night, by test and target.  `seen`: of each finding the first result
    that had it and the last ones.  `ran` and `hit` count results by test, target and kernel, and
    by finding and kernel; `clean` how many had it not, before the first that had it, of the same
    test on the same target and kernel; `kernels` are in the order in which they came.  `spreads`:
    by target and what was measured, one each night.  `booted`: kernels by target, likewise."""

    grid: Grid
    latest: dict[tuple[str, str], Result] = field(default_factory=dict)
    seen: dict[str, list[Result]] = field(default_factory=dict)
    where: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)
    ran: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    hit: dict[str, Counter[str]] = field(default_factory=dict)
    clean: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, None] = field(default_factory=dict)
    spreads: dict[tuple[str, str], list[Spread | None]] = field(default_factory=dict)
    booted: dict[str, list[str]] = field(default_factory=dict)

    @property
    def nights(self) -> list[Night]:
        """From the oldest to the newest."""
        return self.grid.nights

    def cases(self) -> list[Result]:
        """Those that get a page: of the newest night what did not pass, or all where they are
        few; and of each finding the first and last sightings."""
        few = len(self.latest) <= CALM
        chosen = [r for r in self.latest.values() if few or r.outcome not in ("pass", "skip")]
        every = [*chosen, *(result for results in self.seen.values() for result in results)]
        return list({case_id(result): result for result in every}.values())

    def open(self, signature: str) -> bool:
        """Whether the newest night had it."""
        last = self.seen[signature][-1]
        return bool(self.nights) and last.night == self.nights[-1].name

    def rates(self, signature: str) -> list[tuple[str, int, int]]:
        """Of each kernel under which one of its tests ran on one of its targets: the kernel, how
        many results had the finding, and of how many."""
        pairs = self.where[signature]
        made = []
        for kernel in self.kernels:
            total = sum(self.ran[test, target, kernel] for test, target in pairs)
            if total:
                made.append((kernel, self.hit[signature][kernel], total))
        return made

    def suspects(self, signature: str) -> str:
        """What the kernels' rates say of where it came from, in a sentence."""
        rates = self.rates(signature)
        first = next(n for n, (_, hit, _) in enumerate(rates) if hit)
        kernel, hit, total = rates[first]
        clean = self.clean[signature]
        if first == 0 and not clean:
            return "It is as old as what is shown here."
        if clean:
            return (
                f"{kernel} ran {clean} time{'s' * (clean != 1)} without it before it first showed: "
                "that kernel alone does not bring it about every time."
            )
        without = sum(total for _, _, total in rates[:first])
        often = "always" if hit == total else f"in {hit} of {total} results"
        return (
            f"Never up to {rates[first - 1][0]} ({without} results), {often} on {kernel}: look "
            "between these two."
        )


def case_id(result: Result) -> str:
    """The name of its page: stable, short, and no text of anybody's."""
    words = f"{result.run}\0{result.test}\0{result.attempt}"
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def gather(history: History, nights: Sequence[Night]) -> Weeks:
    """Read the results of `nights`, given from the oldest to the newest."""
    weeks = Weeks(Grid.empty(nights))
    for number, night in enumerate(nights):
        results = history.results(nights=[night.name])
        weeks.grid.add(number, results)
        newest = number == len(nights) - 1
        measured: dict[tuple[str, str], list[float]] = {}
        for result in results:
            _count(weeks, result)
            _booted(weeks, result, number)
            for what, seconds in result.times.items():
                measured.setdefault((result.target, what), []).append(seconds)
            if newest:
                _keep_latest(weeks, result)
        for key, times in measured.items():
            told = weeks.spreads.setdefault(key, [None] * len(nights))
            told[number] = Spread(min(times), statistics.median(times), max(times), len(times))
    weeks.grid.sort()
    return weeks


def _count(weeks: Weeks, result: Result) -> None:
    if not result.judged:
        return
    weeks.kernels.setdefault(result.kernel)
    before = weeks.ran[result.test, result.target, result.kernel]
    weeks.ran[result.test, result.target, result.kernel] += 1
    for signature in result.signatures:
        weeks.where.setdefault(signature, {}).setdefault((result.test, result.target))
        weeks.hit.setdefault(signature, Counter())[result.kernel] += 1
        weeks.clean.setdefault(signature, before)
        kept = weeks.seen.setdefault(signature, [])
        kept.append(result)
        if len(kept) > SIGHTINGS:
            del kept[1]


def _booted(weeks: Weeks, result: Result, night: int) -> None:
    told = weeks.booted.setdefault(result.target, [""] * len(weeks.nights))
    told[night] = result.kernel


def _keep_latest(weeks: Weeks, result: Result) -> None:
    """Of several attempts in one night the last that did not pass, else the last."""
    key = (result.test, result.target)
    before = weeks.latest.get(key)
    if before is None or before.outcome == "pass" or result.outcome != "pass":
        weeks.latest[key] = result
