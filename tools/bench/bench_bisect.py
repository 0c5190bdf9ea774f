"""Culprits found per 1,000 runs by `lab bisect`'s search, beside what one would use instead.

A thousand histories for each rate at which bad kernels show the finding: half of them a line of
1,024 commits, half DAGs with merges (made ones, and this repository's own).  Of a good kernel's
runs 2 % seem to show it too, and 5 % of the commits never give a verdict: the answer is then
perhaps a set, right if it holds the culprit.  The lab has run the bad kernel twenty times before,
and the search is told how often it showed; git's repeats are the best for that very rate.
`untold` is a search that was told nothing.  The dice are the same at every call.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from harness.bisect.dag import Dag
from harness.bisect.forecast import Forecast, Lab, forecast
from harness.bisect.rate import TOLD, of_bad, of_good
from tools.bench.bisect_rivals import Played, bayesect, best_repeat
from tools.bench.result import Result

__all__ = ["made", "run"]

_UNIT = "culprits/1000 runs"
_SHOWS = (1.0, 0.5, 0.2, 0.1)
_UNRELATED = 0.02
_BROKEN = 0.05
_EARLIER = 20
_HISTORIES = 500
_LINE = 1024
_DAGS, _DAG = 4, 400
# Slow in Python, and only beside the others.
_OF_BAYESECT = 60
_OF_UNTOLD = 200
_CONFIDENCE = 0.99
_TWICE = 2.0
_SEED = 20


@dataclass(frozen=True)
class _Job:
    shape: str
    shows: float
    told: bool


def run() -> list[Result]:
    """All rates on both shapes, on every core."""
    jobs = [
        _Job(shape, shows, told)
        for told in (True, False)
        for shows in reversed(_SHOWS)  # the longest first
        for shape in ("line", "merges")
    ]
    # Forked ones would share this process's threads of numpy's.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        done = dict(zip(jobs, pool.map(_play, jobs), strict=True))
    results = [result for job in reversed(jobs) for result in _results(job, *done[job])]
    return [
        r for told in ("", ".untold") for r in results if r.bench.endswith(".untold") == bool(told)
    ]


def _play(job: _Job) -> tuple[Played, dict[str, Played]]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    dags = [Dag.line(_LINE)] if job.shape == "line" else list(_merges())
    histories = (_HISTORIES if job.told else _OF_UNTOLD) // len(dags)
    ours, git, bayes = [], [], []
    for number, dag in enumerate(dags):
        random = np.random.default_rng([_SEED, number])
        lab = Lab.draw(dag, histories, job.shows, _UNRELATED, _BROKEN, random)
        rate = of_bad(TOLD) if job.told else of_bad()
        earlier = _EARLIER if job.told else 0
        found = forecast(
            dag, lab, rate, of_good(_UNRELATED), random, confidence=_CONFIDENCE, told=earlier
        )
        ours.append(_played(found))
        if job.told:
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
    name = f"bisect.{job.shape}.p{job.shows:g}"
    end = "" if job.told else ".untold"
    others = {
        f"{who} ({played.right:.1%} right)": 1000 / played.runs for who, played in beside.items()
    }
    # Half of the runs of the best that is right as often.
    equal = {who: rate for who, rate in others.items() if who.startswith("git bisect run")}
    wanted = _TWICE if job.told and job.shows == 0.2 else None
    yield Result.of(
        f"{name}.found{end}", 1000 / ours.runs, _UNIT, equal if wanted else others, wanted
    )
    if job.told and job.shows == 1.0:
        commits = _LINE if job.shape == "line" else _DAG
        most = float(np.log2(commits)) + 2
        yield Result.of(
            f"{name}.budget", 1000 / ours.runs, _UNIT, {f"{most:.1f} runs each": 1000 / most}, 1.0
        )
    yield Result.of(
        f"{name}.right{end}", 100 * ours.right, "%", {"as stated": 100 * _CONFIDENCE}, 1.0
    )
    # The others said that it cannot be known: by the rules of chance, or by --most-runs.
    yield Result.of(f"{name}.sure{end}", 100 * ours.sure, "%", {})


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
