"""The site's front page of a large lab: 100 targets, 200 tests, 30 nights, opened in Chromium.

No test is quiet: each now and then fails somewhere, so that every cell has a strip of its own.
`open` is from the navigation to the first frame after the page's load event; `work` is how long
the browser's main thread worked for it, which no other load changes.  `fit` is how many such pages
fit into 2 MB.  `write` counts the history's results a second of `lab report`.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UsageError
from harness.evidence.finding import signature
from harness.lab import site, store
from harness.lab.history import History
from harness.lab.ingest import Failing, ReadNight, ReadRun, ReadTest
from harness.verdict import Verdict
from tools.bench.result import Result

__all__ = ["run"]

_TARGETS, _TESTS, _NIGHTS = 100, 200, 30
# Of all results; the first of January 2026, one night a day.
_BAD, _FIRST, _DAY = 0.01, 1767225600.0, 86400.0
_BYTES = 2_000_000
_ROUNDS = 5


def run() -> list[Result]:
    """Raises UsageError without Chromium or playwright."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UsageError("no chromium", where="bench site", cure="apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="tdrlab-bench-") as folder:
        runs = Path(folder) / "runs"
        url = f"sqlite:///{folder}/history.sqlite"
        with History.open(url) as history:
            _fill(url, runs)
            before = time.monotonic()
            front = site.write(history, Path(folder) / "site", _NIGHTS)
            took = time.monotonic() - before
        opened, worked = _open(front, chromium)
        size = front.stat().st_size
    return [
        Result.of("site.open", 1 / opened, "pages/s", {"one a second": 1.0}, 1.0),
        Result.of("site.work", 1 / worked, "pages/s", {"one a second": 1.0}, 1.0),
        Result.of("site.fit", _BYTES / size, "in 2 MB", {"one": 1.0}, 1.0),
        Result.of("site.write", _TARGETS * _TESTS * _NIGHTS / took, "results/s", {}),
    ]


def _fill(url: str, runs: Path) -> None:
    """The nights, straight into the history: run directories would be 600,000 files."""
    dice = random.Random(1)
    engine = store.connect(url)
    findings = [_failing(f"WARNING in bench_{n}") for n in range(40)]
    for night in range(_NIGHTS):
        at = _FIRST + night * _DAY
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        targets = {f"box-{n:03}": "" for n in range(_TARGETS)}
        with store.writing(engine) as connection:
            told = ReadNight(name, runs / name, at, at + 7200, "done", targets)
            store.put_night(connection, told, name)
            for target in targets:
                store.put(connection, _run(name, target, at, runs, dice, findings, night), name)
    engine.dispose()


def _failing(title: str) -> Failing:
    return Failing(signature("warning", title), "warning", "fail", title)


def _run(
    night: str,
    target: str,
    at: float,
    runs: Path,
    dice: random.Random,
    findings: list[Failing],
    number: int,
) -> ReadRun:
    name = f"{night}-{target}-000000"
    kernel = f"6.12.{number // 7}"
    return ReadRun(
        name=name, path=runs / name, target=target, driver="amdgpu", night=night, kernel=kernel,
        build=kernel, started=at, ended=at + 3600, how="done", unfit="", boots=1,
        tests=tuple(_tests(at, dice, findings)),
    )  # fmt: skip


def _tests(at: float, dice: random.Random, findings: list[Failing]) -> Iterator[ReadTest]:
    passed: Any = Verdict("", "pass", "", "armed")
    for number in range(_TESTS):
        test = f"testcases/test_area{number // 10}.py::test_case_{number % 10}[gfx-{number}]"
        if dice.random() >= _BAD:
            yield ReadTest(test, 1, at + number, passed, ())
            continue
        failed = dice.choice(findings)
        verdict = msgspec.structs.replace(passed, outcome="fail", reason=failed.title)
        yield ReadTest(test, 1, at + number, verdict, (failed,))


def _open(front: Path, chromium: str) -> tuple[float, float]:
    """Seconds until it shows, and of work, the best of some openings: what else this machine does
    is not the page's fault.  Each in a context of its own: nothing is cached."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UsageError(
            "no playwright", where="bench site", cure="pip install '.[dev]'"
        ) from error
    loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    times: list[float] = []
    works: list[float] = []
    with sync_playwright() as running:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=chromium, args=args)
        for _ in range(_ROUNDS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            meter = context.new_cdp_session(page)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(front.as_uri())
            page.wait_for_function(f"{loaded} > 0")
            # Until the first frame with it has been made.
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            times.append(page.evaluate("performance.now()") / 1000)
            metrics = meter.send("Performance.getMetrics")["metrics"]
            works.append(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))
            context.close()
        browser.close()
    return min(times), min(works)
