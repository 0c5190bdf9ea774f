"""The site: what changed since last night, and a page for each finding, test run, test, target.

Static files that need no server and no network.  Made of the history; a test run's page also of
its run directory, as long as that is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.errors import HarnessError, UsageError
from harness.lab import casepage, diff, morning, trend
from harness.lab.casepage import Links
from harness.lab.diff import Diff
from harness.lab.history import History
from harness.lab.pages import Pages
from harness.lab.past import Night, Result, Run
from harness.lab.searching import Index
from harness.lab.strips import rule
from harness.lab.weeks import Weeks, case_id, gather

__all__ = ["NIGHTS", "Sheet", "default_out", "write"]

# Nights shown, unless asked for otherwise.
NIGHTS = 30
# Pixels of all nights of a strip together, and of one night.
_STRIP, _NARROW, _WIDE = 90, 1, 8
# Times that have a trend, with their headings (harness.account.durations).
_TRENDS = {
    "tdr": "from the submission of a hang to its fence's end",
    "recovery": "timeout handler",
    "fence": "life of a healthy job's fence",
}


def default_out(runs: Path) -> Path:
    """Beside the runs, so that a server that shows them shows it too."""
    return runs / "site"


def write(history: History, out: Path, nights: int = NIGHTS) -> Path:
    """Write the site to `out`; its front page.

    Of nightlies, or where there are none, of runs by hand.  Raises UsageError where nothing ran,
    or `out` holds something else; LabError (disk, database).
    """
    chosen = history.nights(last=nights) or history.nights(nightly=False, last=nights)
    if not chosen:
        raise UsageError(
            "the history is empty", where=history.url, cure="lab history add RUNS, or lab nightly"
        )
    chosen.reverse()
    site = _Site(history, chosen, Pages(out))
    site.write()
    return out / "index.html"


class Sheet:
    """The strips of one page: each different one is a rule of CSS, and cells name it."""

    def __init__(self, nights: int) -> None:
        self.width = max(_NARROW, min(_WIDE, _STRIP // max(nights, 1)))
        self._names: dict[bytes, str] = {}

    def __call__(self, strip: bytes) -> str:
        """The class that draws `strip`."""
        return self._names.setdefault(strip, f"k{len(self._names)}")

    def rules(self, nights: int) -> Markup:
        """The style of the page: made of numbers and our own words only."""
        rules = [f":root{{--strip:{self.width * nights}px;--night:{self.width}px}}"]
        rules += [f".{name}{{{rule(s, self.width)}}}" for s, name in self._names.items()]
        return Markup("\n".join(rules))


class _Site:
    def __init__(self, history: History, nights: Sequence[Night], pages: Pages) -> None:
        self._history = history
        self._pages = pages
        self._weeks: Weeks = gather(history, nights)
        self._grid = self._weeks.grid
        self._night = nights[-1]
        self._diff = self._compare()
        self._runs: dict[str, Run] = {run.name: run for run in history.runs()}
        self._cases = {case_id(result): result for result in self._weeks.cases()}
        self._links = Links(
            cases=frozenset(self._cases),
            findings=frozenset(self._weeks.seen),
            out=pages.out,
        )
        self._index = Index()

    def write(self) -> None:
        self._front()
        for signature in self._weeks.seen:
            self._finding(signature)
        for test in self._grid.tests:
            self._test(test)
        for target in self._targets():
            self._target(target)
        for result in self._cases.values():
            self._case(result)
        self._pages.text("search.js", self._index.script())
        self._pages.close()

    def _compare(self) -> Diff | None:
        """With each test's own past; of runs by hand with the last one on the same target."""
        if self._night.nightly:
            return diff.compare(self._history, after=self._night.name)
        same = [n for n in self._weeks.nights[:-1] if n.targets == self._night.targets]
        if not same:
            return None
        return diff.compare(self._history, before=same[-1].name, after=self._night.name)

    def _render(self, name: str, template: str, sheet: Sheet, **values: Any) -> None:
        self._pages.page(
            name,
            template,
            sheet=sheet,
            rules=sheet.rules(len(self._weeks.nights)),
            night=self._night,
            weeks=self._weeks,
            grid=self._grid,
            links=self._links,
            case_id=case_id,
            **values,
        )

    def _sheet(self, pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Sheet:
        """With the strips of these tests on targets."""
        sheet = Sheet(len(self._weeks.nights))
        for test, target in pairs:
            sheet(self._grid.strip(test, target))
        return sheet

    def _targets(self) -> list[str]:
        """All that ran, or were to run last night."""
        return sorted({*self._grid.targets, *self._night.targets, *self._night.troubles})

    def _front(self) -> None:
        changes = self._diff.changes if self._diff else ()
        signatures = {sign for change in changes if change.now for sign in change.now.signatures}
        sightings = self._history.sightings(sorted(signatures)) if signatures else ()
        news = morning.put_together(changes, sightings)
        loud = [test for test in self._grid.tests if not self._grid.quiet(test)]
        quiet = [test for test in self._grid.tests if self._grid.quiet(test)]
        shown = [(test, target) for test in loud for target in self._grid.targets]
        shown += [(one.test, one.target) for item in news for one in item.where]
        self._render(
            "index.html",
            "front.html",
            self._sheet(shown),
            news=news,
            headings=morning.HEADINGS,
            diff=self._diff,
            loud=loud,
            quiet=quiet,
            targets=[self._state(target) for target in self._targets()],
            counts=self._grid.newest(),
        )

    def _state(self, target: str) -> dict[str, Any]:
        """A target as last night left it."""
        runs = [run for run in self._runs.values() if run.target == target]
        run = max(runs, key=lambda run: run.started, default=None)
        ran = target in self._grid.targets
        counts = self._grid.of_target(target) if ran else {}
        last = {name: nights[-1] for name, nights in counts.items() if nights[-1]}
        spreads = self._weeks.spreads.get((target, "tdr"), [])
        return {
            "name": target,
            "trouble": self._night.troubles.get(target, ""),
            "asked": target in self._night.targets,
            "run": run,
            "counts": dict(reversed(last.items())),
            "tdr": spreads[-1] if spreads else None,
        }

    def _finding(self, signature: str) -> None:
        weeks = self._weeks
        (sighting,) = self._history.sightings([signature])
        pairs = list(weeks.where[signature])
        self._index.add("finding", f"{sighting.title} {signature}", f"finding/{signature}.html")
        shown, evidence = casepage.evidence(weeks.seen[signature], signature)
        pictured = evidence is not None and self._pages.copy(
            f"finding/{signature}.svg", evidence.directory / f"cycle-{signature}.svg"
        )
        self._render(
            f"finding/{signature}.html",
            "finding.html",
            self._sheet(pairs),
            sighting=sighting,
            finding=shown,
            evidence=evidence,
            open=weeks.open(signature),
            pictured=pictured,
            pairs=pairs,
            results=list(reversed(weeks.seen[signature])),
            rates=weeks.rates(signature),
            suspects=weeks.suspects(signature),
        )

    def _test(self, test: str) -> None:
        self._index.add("test", test, self._links.test(test))
        pairs = [(test, target) for target in self._grid.targets if self._grid.ever(target, test)]
        self._render(
            self._links.test(test), "test.html", self._sheet(pairs), test=test, pairs=pairs
        )

    def _target(self, target: str) -> None:
        self._index.add("target", target, self._links.target(target))
        ran = target in self._grid.targets
        tests = [test for test in self._grid.tests if self._grid.ever(target, test)] if ran else []
        nights = self._weeks.nights
        days = [f"{datetime.fromtimestamp(night.started, UTC):%Y-%m-%d}" for night in nights]
        trends = []
        for what, meaning in _TRENDS.items():
            spreads = self._weeks.spreads.get((target, what))
            if spreads:
                kernels = self._weeks.booted[target]
                title = f"{what}: {meaning}, median and range of each night"
                drawn = trend.render(spreads, kernels, days, title)
                trends.append((what, meaning, Markup(drawn)))
        runs = [run for run in self._runs.values() if run.target == target]
        runs.sort(key=lambda run: run.started, reverse=True)
        self._render(
            self._links.target(target),
            "target.html",
            self._sheet([(test, target) for test in tests]),
            target=target,
            state=self._state(target),
            loud=[test for test in tests if not self._grid.calm(test, target)],
            quiet=[test for test in tests if self._grid.calm(test, target)],
            trends=trends,
            counts=self._counts(target),
            runs=runs[: len(nights)],
            unfit=casepage.unfit_times(runs[: len(nights)]),
        )

    def _counts(self, target: str) -> dict[str, dict[str, int]]:
        """By night: how many of the target's tests ended how, worst first."""
        if target not in self._grid.targets:
            return {}
        found = self._grid.of_target(target)
        return {
            night.name: {s: found[s][n] for s in reversed(found) if found[s][n]}
            for n, night in enumerate(self._weeks.nights)
        }

    def _case(self, result: Result) -> None:
        name = self._links.case(result)
        try:
            view = casepage.view(result)
        except HarnessError as error:
            view = casepage.without(result, str(error))
        if view.case is not None:
            for finding in view.findings:
                self._pages.copy(
                    f"finding/{finding.signature}.svg",
                    view.case.directory / f"cycle-{finding.signature}.svg",
                )
        pictured = view.picture is not None and self._pages.copy(
            f"case/{case_id(result)}.svg", view.picture
        )
        pair = (result.test, result.target)
        evidence = os.path.relpath(result.path, self._pages.out / "case")
        self._render(
            name,
            "case.html",
            self._sheet([pair]),
            result=result,
            view=view,
            pictured=pictured,
            cycles={
                f.signature
                for f in view.findings
                if (self._pages.out / f"finding/{f.signature}.svg").exists()
            },
            evidence=evidence,
        )
