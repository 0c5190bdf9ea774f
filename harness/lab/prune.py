"""Retention: old streams are compressed, old evidence is taken away; what was judged stays.

A pruned run keeps its journal, facts, verdicts and findings, so that the history can be rebuilt
from it; the evidence of findings that are still open stays whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.files import disk_error
from harness.evidence.packed import SUFFIX, pack
from harness.evidence.rundir import RunDir
from harness.lab import ingest
from harness.lab.diff import WINDOW
from harness.lab.past import Result
from harness.lab.reservation import Reservation

__all__ = ["Deed", "open_runs", "prune", "pruned"]

DAY = 86400.0
# Streams of a boot that are compressed, from so many bytes on.
STREAMS = ("kmsg", "console.log", "netconsole.log", "uevents.jsonl", "trace*/cpu*.raw")
SMALLEST = 16 << 10
# What stays of a test.
KEPT = ("window.json", "verdict.json", "findings.json")


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done to a run, or would be: compressed or pruned, and the bytes that saved."""

    run: Path
    what: str
    bytes: int


class _Open:
    """A finding: the first run and the last that showed it, and those since that did not."""

    def __init__(self, first: str) -> None:
        self.first = self.last = first
        self.quiet: set[str] = set()


def open_runs(results: Iterable[Result]) -> set[str]:
    """Names of the runs whose evidence is still needed: of each finding that is open in a test,
    the first run that shows it and the last.

    It is open until as many runs did not show it as the diff looks back: a flake passes often.
    """
    lasting: dict[tuple[str, str], dict[str, _Open]] = {}
    for result in results:  # oldest first
        if not result.judged:
            continue
        found = lasting.setdefault((result.target, result.test), {})
        shown = (result.signatures or ("",)) if result.bad or result.known else ()
        for sign in shown:
            one = found.setdefault(sign, _Open(result.run))
            one.last = result.run
            one.quiet.clear()
        for sign in [sign for sign in found if sign not in shown]:
            one = found[sign]
            if result.run != one.last:
                one.quiet.add(result.run)
            if len(one.quiet) >= WINDOW:
                del found[sign]
    every = [one for found in lasting.values() for one in found.values()]
    return {run for one in every for run in (one.first, one.last)}


def pruned(path: Path) -> bool:
    """Whether the evidence of a run was taken away: it cannot be judged again."""
    return any(entry["what"] == "pruned" for entry in journal.read(path / "journal.jsonl"))


def prune(
    runs: Path,
    needed: set[str],
    *,
    compress_s: float,
    keep_s: float,
    size: int | None = None,
    now: float | None = None,
    dry: bool = False,
) -> list[Deed]:
    """Compress what is older than `compress_s` seconds and take away what is older than `keep_s`,
    and then, oldest first, until all runs take at most `size` bytes.

    Runs in `needed` are compressed only; one that goes on is left alone.  Raises LabError.
    """
    now = time.time() if now is None else now
    deeds: list[Deed] = []
    left: list[tuple[float, Path, int]] = []
    for path in ingest.runs_in(runs):
        run = ingest.read(path)
        age = now - (run.ended or run.started)
        if run.ended is None and _held(run.target):
            continue
        if age > keep_s and path.name not in needed:
            deeds += _strip(path, dry)
        elif age > compress_s:
            deeds += _compress(path, dry)
        left.append((run.started, path, _size(path)))
    total = sum(bytes_ for _, _, bytes_ in left)
    for _, path, bytes_ in sorted(left):
        if size is None or total <= size:
            break
        if path.name not in needed and (done := _strip(path, dry)):
            deeds += done
            total -= bytes_ if dry else bytes_ - _size(path)
    return deeds


def _compress(path: Path, dry: bool) -> list[Deed]:
    found = [
        stream
        for pattern in STREAMS
        for stream in sorted(path.glob(f"boot-*/{pattern}"))
        if stream.is_file() and stream.stat().st_size >= SMALLEST
    ]
    if not found:
        return []
    saved = sum(stream.stat().st_size if dry else pack(stream) for stream in found)
    return [Deed(path, "compressed", saved)] if saved else []


def _strip(path: Path, dry: bool) -> list[Deed]:
    """Only what is judged and what judged it stays."""
    doomed = [*path.glob("boot-*"), *path.glob("*.log"), *path.glob(f"*.log{SUFFIX}")]
    doomed += [f for f in path.glob("tests/*/*") if f.name not in KEPT]
    if not doomed:
        return []
    before = _size(path)
    if dry:
        return [Deed(path, "pruned", sum(map(_size, doomed)))]
    # First that it is so: a crash in between must not let it be judged by what is left.
    run = RunDir.open(path)
    run.journal.add("pruned")
    run.close()
    try:
        for one in doomed:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    except OSError as error:
        raise disk_error(path, error) from error
    return [Deed(path, "pruned", before - _size(path))]


def _held(target: str) -> bool:
    try:
        return bool(target) and Reservation.holder(target) is not None
    except LabError:
        return True


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
