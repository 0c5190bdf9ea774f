"""How much lockdep could have seen of recovery in one boot: armed, primed, annotated.

From the boot's copies of /proc/lockdep and /proc/lockdep_chains alone.  What it could not see
is said, in the run's header, in the report and in the verdict: silence is no proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from harness.errors import UsageError
from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import RunDir, Window
from harness.gpu import backend_for
from harness.gpu.base import Annotation
from harness.kernel import coverage
from harness.kernel.resets import GpuEvent

__all__ = ["CHAINS", "GRAPH", "Coverage", "notes", "of_boot", "of_run"]

GRAPH, CHAINS = "lockdep", "lockdep_chains"
"""The copies' names, in a boot's directory as in /proc."""


class Coverage(Struct, frozen=True):
    """What lockdep knew of a boot when it was last asked.

    `unprimed`: locks that do not lead to a fence wait yet, so that taking them in recovery
    makes no report.  `annotated`: whether the driver's annotated path was taken.
    """

    known: bool = False
    unprimed: tuple[str, ...] = ()
    annotated: bool = False
    annotation: Annotation | None = None

    def __str__(self) -> str:
        if not self.known:
            return "what it knows was not recorded"
        return f"{self.priming()}; {self.path()}"

    @property
    def complete(self) -> bool:
        """Whether nothing more can come of asking again."""
        return self.annotated and not self.unprimed

    def priming(self) -> str:
        """Whether it is primed, in words."""
        return f"not primed: {', '.join(self.unprimed)}" if self.unprimed else "primed"

    def path(self) -> str:
        """Whether recovery is annotated, in words."""
        if self.annotation is None:
            return "nothing is known of this driver's annotations"
        if not self.annotated:
            return f"not annotated here: {self.annotation.path} was in no signalling section"
        but = self.annotation.without
        return f"annotated: {self.annotation.path}" + (f", but not {but}" if but else "")


def of_boot(boot: Path, driver: str) -> Coverage:
    """Of one boot's directory, for the card under test."""
    return _read(boot, driver, _stamp(boot / GRAPH), _stamp(boot / CHAINS))


def _stamp(path: Path) -> tuple[int, ...]:
    """What is another one when the file is."""
    try:
        told = path.stat()
    except FileNotFoundError:
        return ()
    return told.st_ino, told.st_mtime_ns, told.st_size


# Asked for every test that resets, and long; most of a night one boot's last copies serve.
@lru_cache(maxsize=2)
def _read(
    boot: Path, driver: str, graph_is: tuple[int, ...], chains_are: tuple[int, ...]
) -> Coverage:
    if not graph_is:
        return Coverage()
    graph = coverage.Graph.parse((boot / GRAPH).read_text("utf-8", "replace"))
    try:
        annotation = backend_for(driver).annotation
    except UsageError:
        return Coverage(True, tuple(coverage.unprimed(graph)))
    annotated = graph.has(coverage.SECTION, annotation.inside)
    if not annotated and chains_are:
        with (boot / CHAINS).open(encoding="utf-8", errors="replace") as chains:
            annotated = coverage.held_in_order(chains, annotation.chain)
    return Coverage(True, tuple(coverage.unprimed(graph)), annotated, annotation)


def of_run(run: RunDir) -> dict[str, Coverage]:
    """Of each boot of a run of which something is known."""
    facts = run.facts()
    driver = facts.get("target", {}).get("driver", "")
    found = {boot: of_boot(run.path / f"boot-{boot}", driver) for boot in facts.get("boots", [])}
    return {boot: seen for boot, seen in found.items() if seen.known}


def notes(
    run: RunDir, window: Window, events: Iterable[GpuEvent], recovered: bool | None
) -> list[Finding]:
    """What lockdep could not have seen of the recoveries in `window`; `recovered` as Account's."""
    if not any(event.step in ("hang", "reset-begin") for event in events):
        return []
    driver = run.facts().get("target", {}).get("driver", "")
    seen = of_boot(run.path / f"boot-{window.boot_id}", driver)
    if not seen.known or seen.annotation is None:
        return []
    told = [seen.priming()] if seen.unprimed else []
    if not seen.annotated:
        told.append(seen.path())
    elif recovered is False:
        told.append(f"not annotated here: nothing ran in {seen.annotation.path}")
    return [Finding("coverage", "note", text, signature("coverage", text)) for text in told]
