"""Culprits found per 1,000 runs by `lab bisect`'s search, beside what one would use instead.

A thousand histories for each rate at which bad kernels show the finding, on a line of 1,024
commits, and a thousand on DAGs with merges (made ones, and this repository's own).  Of a good
kernel's runs 2 % seem to show it too, and 5 % of the commits never give a verdict: the answer is
then perhaps a set, right if it holds the culprit.  The lab has run the bad kernel twenty times
before, and the search is told how often it showed; git's repeats are the best for that very rate.
Twenty in a row do not tell always from nearly always, so that the search still doubts; `hundred`
is one that was told of as many, as a nightly has them.  `untold` was told nothing: its own runs
tell it the rate.  `asif` was told 100 of 100 of a kernel that shows it in half: what it costs to
take for granted that it always shows, and why the untold one does not.  The dice are the same at
every call, and others than those by which the search's own figures were chosen.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from harness.bisect.dag import Dag
from harness.bisect.forecast import Forecast, Lab, forecast
from harness.bisect.rate import of_bad_after, of_good
from tools.bench.bisect_rivals import Played, bayesect, best_repeat
from tools.bench.result import Result

__all__ = ["made", "run"]

_UNIT = "culprits/1000 runs"
# Nearly always is the hardest to tell from always.
_SHOWS = (1.0, 0.95, 0.5, 0.2, 0.1)
_UNRELATED = 0.02
_BROKEN = 0.05
# Earlier runs of a bad kernel.
_EARLIER = {"told": 20, "hundred": 100, "untold": 0, "asif": 100}
_HISTORIES = 1000
_SHAPES = ("line", "merges")
_LINE = 1024
_DAGS, _DAG = 4, 400
# Slow in Python, and only beside the others.
_OF_BAYESECT = 60
_CONFIDENCE = 0.99
_TWICE = 2.0
# For tuning take any seed below 1000.
_SEED = 20261


@dataclass(frozen=True)
class _Job:
    shape: str
    shows: float
    how: Literal["told", "hundred", "untold", "asif"] = "told"

    @property
    def name(self) -> str:
        """Its bench."""
        return f"bisect.{self.shape}.p{self.shows:g}"


def run() -> list[Result]:
    """All rates on both shapes, on every core that we may use (taskset(1) tells)."""
    jobs = [_Job(shape, shows) for shows in _SHOWS for shape in _SHAPES]
    jobs += [_Job(shape, shows, "untold") for shows in _SHOWS for shape in _SHAPES]
    jobs += [_Job(shape, shows, "hundred") for shows in _SHOWS[:2] for shape in _SHAPES]
    jobs += [_Job("line", 0.5, "asif")]
    # The longest first.  Forked ones would share this process's threads of numpy's.
    first = sorted(jobs, key=lambda job: job.shows)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        done = dict(zip(first, pool.map(_play, first), strict=True))
    return [result for job in jobs for result in _results(job, *done[job])]


def _play(job: _Job) -> tuple[Played, dict[str, Played]]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    dags = [Dag.line(_LINE)] if job.shape == "line" else list(_merges())
    ours, git, bayes = [], [], []
    for number, dag in enumerate(dags):
        random = np.random.default_rng([_SEED, number])
        lab = Lab.draw(dag, _HISTORIES // len(dags), job.shows, _UNRELATED, _BROKEN, random)
        earlier = _EARLIER[job.how]
        rate = of_bad_after(earlier)
        found = forecast(
            dag, lab, rate, of_good(_UNRELATED), random, confidence=_CONFIDENCE, told=earlier,
            told_bad=earlier if job.how == "asif" else None,
        )  # fmt: skip
        ours.append(_played(found))
        if job.how == "told":
            git.append(best_repeat(dag, lab, _SEED))
            if job.shape == "line":
                other = bayesect(lab, _OF_BAYESECT, random)
                bayes += [] if other is None else [other]
    beside = {}
    if git:
        told = ", ".join(dict.fromkeys(f"{one.needed} of {one.runs}" for one, _ in git))
        beside[f"git bisect run, {told}"] = _mean([played for _, played in git])
    if bayes:
        beside["git-bayesect"] = _mean(bayes)
    return _mean(ours), beside


def _played(found: Forecast) -> Played:
    # What it was not sure of it did not claim, and said so; how many these are is told.
    right = float((found.right & found.sure).sum() / max(1, found.sure.sum()))
    return Played(float(found.runs.mean()), right, float(found.sure.mean()))


def _mean(played: list[Played]) -> Played:
    runs, right, sure = (
        float(np.mean([getattr(one, name) for one in played])) for name in ("runs", "right", "sure")
    )
    return Played(runs, right, sure)


def _results(job: _Job, ours: Played, beside: dict[str, Played]) -> Iterator[Result]:
    end = "" if job.how == "told" else f".{job.how}"
    others = {
        f"{who}: {played.runs:.1f} runs, {played.right:.1%} right": 1000 / played.runs
        for who, played in beside.items()
    }
    # Half of the runs of the best that is right as often.
    equal = {who: rate for who, rate in others.items() if who.startswith("git bisect run")}
    wanted = _TWICE if job.how == "told" and job.shows == 0.2 else None
    found = Result.of(
        f"{job.name}.found{end}", 1000 / ours.runs, _UNIT, equal if wanted else others, wanted
    )
    yield msgspec.structs.replace(
        found,
        beside={w: float(f"{r:.4g}") for w, r in others.items()},
        note=f"{ours.runs:.1f} runs, {ours.right:.1%} right",
    )
    if job.shows == 1.0:
        commits = _LINE if job.shape == "line" else _DAG
        most = float(np.log2(commits)) + 2
        yield Result.of(
            f"{job.name}.budget{end}", 1000 / ours.runs, _UNIT,
            {f"log2 of the commits and 2: {most:.1f} runs": 1000 / most},
            1.0 if job.how == "hundred" else None,
        )  # fmt: skip
    yield Result.of(
        f"{job.name}.right{end}", 100 * ours.right, "%", {"as stated": 100 * _CONFIDENCE},
        None if job.how == "asif" else 1.0,
    )  # fmt: skip
    # The others said that it cannot be known: by the rules of chance, or by --most-runs.
    yield Result.of(f"{job.name}.sure{end}", 100 * ours.sure, "%", {})


def _merges() -> Iterator[Dag]:
    """Histories with merges: made ones, and this repository's."""
    for number in range(_DAGS):
        yield made(_DAG, np.random.default_rng([_SEED, number]))
    if (own := _own()) is not None:
        yield own


def made(commits: int, random: np.random.Generator) -> Dag:
    """A main line with topic branches that fork from it, grow side by side, and are merged."""
    parents: list[list[int]] = [[]]
    main, topics = 0, list[int]()
    while len(parents) < commits:
        here, dice = len(parents), random.random()
        if dice < 0.08 and len(topics) < 12:
            parents.append([main])
            topics.append(here)
        elif dice < 0.14 and topics:
            parents.append([main, topics.pop(int(random.integers(len(topics))))])
            main = here
        elif dice < 0.8 and topics:
            grown = int(random.integers(len(topics)))
            parents.append([topics[grown]])
            topics[grown] = here
        else:
            parents.append([main])
            main = here
    # The tip has them all, in one merge.
    parents[-1] = sorted({main, *topics, *parents[-1]} - {commits - 1})
    return Dag(parents)


def _own() -> Dag | None:
    """Its oldest commits, so that they stay the same; where it is a checkout with its history."""
    root = Path(__file__).parents[2]
    argv = ["git", "-C", str(root), "rev-list", "--date-order", "--reverse", "--parents", "HEAD"]
    try:
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    numbers: dict[str, int] = {}
    parents = []
    for line in text.splitlines()[:_DAG]:
        commit, *mine = line.split()
        parents.append([numbers[one] for one in mine if one in numbers])
        numbers[commit] = len(numbers)
    return Dag(parents) if len(parents) > 1 else None
