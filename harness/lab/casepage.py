"""The page of one test run: its steps, its marked log, its findings, the files of its evidence.

Reads run directories; a run that is no more costs its page the log, not its verdict.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.account import PICTURE
from harness.errors import HarnessError
from harness.evidence import journal
from harness.evidence.finding import Finding
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir, attempt_of, slug
from harness.kernel.records import Record
from harness.lab.casefile import Case, case_of
from harness.lab.past import Result, Run
from harness.lab.timeline import Line, Step, log_of, steps_of
from harness.lab.weeks import case_id

__all__ = ["File", "Links", "View", "evidence", "unfit_times", "view", "without"]

# Records of one test that are read; a flood has more.
_RECORDS = 50_000
# Of a picture, in bytes; a storm's is larger, and no browser's friend.
_PICTURE = 2_000_000
# Of a dead machine's console, in lines and in bytes.
_LAST, _TAIL = 60, 20_000


@dataclass(frozen=True, slots=True)
class Links:
    """Where pages are, from the top of the site, and which there are."""

    cases: frozenset[str]
    findings: frozenset[str]
    out: Path

    def case(self, result: Result) -> str:
        """The page of a test run."""
        return f"case/{case_id(result)}.html"

    def has(self, result: Result | None) -> bool:
        """Whether that test run has a page."""
        return result is not None and case_id(result) in self.cases

    def finding(self, signature: str) -> str:
        """The page of a finding, "" where it has none."""
        return f"finding/{signature}.html" if signature in self.findings else ""

    def test(self, test: str) -> str:
        """The page of a test on all targets."""
        return f"test/{hashlib.sha256(test.encode()).hexdigest()[:12]}.html"

    def target(self, target: str) -> str:
        """The page of a target."""
        return f"target/{slug(target)}.html"

    def raw(self, path: Path, depth: int) -> str:
        """Evidence, from a page `depth` folders down, "" where it is no more."""
        if not path.exists():
            return ""
        return os.path.relpath(path, self.out.joinpath(*(["x"] * depth)))


@dataclass(frozen=True, slots=True)
class File:
    """A file of evidence, by its path in the run directory, with its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows.  `trouble` says why there is no evidence."""

    case: Case | None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    log: tuple[Line, ...] = ()
    console: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    picture: Path | None = None
    trouble: str = ""


def view(result: Result) -> View:
    """From the run directory.  Raises HarnessError where that cannot be read."""
    case = _open(result)
    records: list[Record] = list(itertools.islice(case.log(), _RECORDS))
    picture = case.directory / PICTURE
    small = picture.exists() and picture.stat().st_size <= _PICTURE
    found = case.verdict.findings
    log = tuple(log_of(case, records))
    return View(
        case=case,
        findings=(*case.failing, *(f for f in found if f.severity == "unknown")),
        notes=tuple(f.title for f in found if f.severity == "note"),
        steps=tuple(steps_of(case, records)),
        log=log,
        console=() if log else tuple(_last_words(case)),
        files=tuple(_files(case)),
        picture=picture if small else None,
    )


def without(result: Result, why: str) -> View:
    """Of a run whose directory is no more, from the history alone."""
    findings = (Finding(f.kind, "fail", f.title, f.signature) for f in result.failings)
    return View(case=None, findings=tuple(findings), trouble=why)


def evidence(results: Sequence[Result], signature: str) -> tuple[Finding | None, Case | None]:
    """The finding as it was seen last, and where; (None, None) where no evidence is left."""
    for result in reversed(results):
        try:
            case = _open(result)
        except HarnessError:
            continue
        for finding in (*case.verdict.findings, *case.failing):
            if finding.signature == signature:
                return finding, case
    return None, None


def unfit_times(runs: Iterable[Run]) -> dict[str, float]:
    """By run: for how long its target was unfit, in seconds, until the run ended."""
    times = {}
    for run in runs:
        entries = list(journal.read(run.path / "journal.jsonl")) if run.unfit else []
        since = next((e["time"] for e in entries if e["what"] in ("unfit", "connect-failed")), "")
        try:
            began = datetime.fromisoformat(since).timestamp()
        except ValueError:
            continue
        times[run.name] = max(0.0, (run.ended or began) - began)
    return times


def _open(result: Result) -> Case:
    run = RunDir.open(result.path)
    run.close()  # what is read is read from the disk
    for test in run.tests():
        if attempt_of(test) == (result.test, result.attempt):
            return case_of(run, test)
    return case_of(run, result.test)


def _last_words(case: Case) -> list[str]:
    """What a machine that died said last on its console."""
    window = case.window
    if window is None or not window.died:
        return []
    path = plain(case.run.path / f"boot-{window.boot_id}" / "console.log")
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        return stream.read().decode("utf-8", "replace").splitlines()[-_LAST:]


def _files(case: Case) -> list[File]:
    """The test's own files, then its boot's streams, and what the target kept over its death."""
    paths = sorted(path for path in case.directory.iterdir() if path.is_file())
    boot = case.run.path / f"boot-{case.window.boot_id}" if case.window else None
    if boot is not None and case.window and case.window.boot_id and boot.is_dir():
        kept = [*boot.iterdir(), *boot.glob("pstore/*"), *boot.glob("kdump/*")]
        paths += sorted(path for path in kept if path.is_file())
    paths += [case.run.path / name for name in ("run.json", "journal.jsonl", "report.html")]
    return [
        File(str(path.relative_to(case.run.path)), path.stat().st_size)
        for path in paths
        if path.exists()
    ]
