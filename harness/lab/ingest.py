"""A run directory as the history wants it: read, never written, whatever died in it.

Pure reading: a run that is still going on, or lies on a read-only disk, is read as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from harness.errors import UsageError
from harness.evidence import journal
from harness.evidence.finding import signature
from harness.evidence.rundir import attempt_of, slug
from harness.kernel.signature import steady
from harness.lab import resume

__all__ = [
    "Failing",
    "ReadNight",
    "ReadRun",
    "ReadTest",
    "fingerprint",
    "night_fingerprint",
    "nights_in",
    "read",
    "read_night",
    "runs_in",
]

NIGHTS = "nights"
"""The folder of a runs directory in which nightlies keep their journals."""
# What a bisect's folder has and no run does (bisect/bisection.py).
BISECT = "bisect.json"


# Of a test in which the harness was killed (lab/resume.py): that is the lab's doing.
ENDED = resume.WHY

# A failure without a finding gets one here, so that the history can tell it from another: its
# kind, by outcome.  Numbers in what the test said are no part of its identity.
OF_ITS_OWN = {"fail": "assertion", "incomplete": "died"}


class Failing(Struct, frozen=True):
    """What the history keeps of a finding."""

    signature: str = ""
    kind: str = ""
    severity: str = "note"
    title: str = ""


class _Verdict(Struct, frozen=True):
    """A verdict.json of any age: what it has not, it does not say."""

    test: str
    outcome: str = "error"
    reason: str = ""
    lockdep: str = "blind"
    findings: tuple[Failing, ...] = ()
    seconds: float = 0.0
    fences: str = "none"
    known: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    times: dict[str, float] = {}


_VERDICTS = msgspec.json.Decoder(_Verdict)
# Bytes read of a file at once: what is less is its end.
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class ReadTest:
    """One test of it; `failings` are findings that are no notes."""

    test: str
    attempt: int
    started: float
    verdict: _Verdict
    failings: tuple[Failing, ...]


@dataclass(frozen=True, slots=True)
class ReadRun:
    """One run.  `night` is "" for a run that no nightly started; `how` it ended, "" for one that
    was killed or goes on; `unfit` why its target could not be reached, or not be brought back."""

    name: str
    path: Path
    target: str
    driver: str
    night: str
    kernel: str
    build: str
    started: float
    ended: float | None
    how: str
    unfit: str
    boots: int
    tests: tuple[ReadTest, ...]


@dataclass(frozen=True, slots=True)
class ReadNight:
    """One nightly.  `targets`: all that were wanted, and why one did not do what was asked, ""."""

    name: str
    path: Path
    started: float
    ended: float | None
    how: str
    targets: dict[str, str]


def runs_in(root: Path) -> list[Path]:
    """`root` itself if it is a run directory, else those directly in it, oldest name first.

    A night and a bisect are none, though a bisect has a journal: its runs lie in its own home.
    Raises UsageError where nothing can be read.
    """
    if (root / "night.jsonl").exists():
        return []
    return [path for path in _having(root, "journal.jsonl") if not (path / BISECT).exists()]


def nights_in(root: Path) -> list[Path]:
    """`root` itself if it is a night, else those of the runs directory `root`."""
    if (root / "night.jsonl").exists():
        return [root]
    return _having(root / NIGHTS, "night.jsonl") if (root / NIGHTS).is_dir() else []


def _having(root: Path, name: str) -> list[Path]:
    if (root / name).exists():
        return [root]
    try:
        found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise UsageError(
            f"no runs can be read there: {error.strerror}",
            where=str(root),
            cure="give a run directory, or one that holds some",
        ) from error
    return [root / entry for entry in found if (root / entry / name).exists()]


def night_fingerprint(path: Path) -> str:
    """What changes whenever the night's journal does."""
    return hashlib.sha256(_state(f"{path}/night.jsonl")).hexdigest()


def read_night(path: Path) -> ReadNight:
    """The night at `path`, as its journal tells it."""
    entries = list(journal.read(path / "night.jsonl"))
    targets: dict[str, str] = {}
    ended, how = None, ""
    for entry in entries:
        match entry["what"]:
            case "night-start":
                targets |= dict.fromkeys(entry.get("targets", ()), "")
                ended, how = None, ""  # resumed: its new end counts
            case "target-end":
                targets[entry["target"]] = str(entry.get("why", ""))
                if entry.get("elsewhere"):  # it is in the night of whoever tested it
                    del targets[entry["target"]]
            case "night-end":
                ended, how = _epoch(entry), str(entry.get("how", ""))
    began = _epoch(entries[0]) if entries else 0.0
    return ReadNight(path.resolve().name, path.resolve(), began, ended, how, targets)


def fingerprint(path: Path) -> str:
    """What changes whenever anything that `read` looks at does."""
    seen = hashlib.sha256()
    for name in ("journal.jsonl", "run.json"):
        seen.update(_state(f"{path}/{name}"))
    # A verdict is replaced whole, by renaming: that changes the directory that it lies in.
    try:
        tests = sorted(os.scandir(path / "tests"), key=lambda entry: entry.name)
    except OSError:
        tests = []
    for entry in tests:
        seen.update(os.fsencode(entry.name) + _state(f"{entry.path}/verdict.json"))
    return seen.hexdigest()


def read(path: Path) -> ReadRun:
    """Everything the history keeps of the run at `path`.  A torn or missing file is as if what it
    says had never been said."""
    facts = _facts(path / "run.json")
    target = facts.get("target", {})
    kernel = facts.get("kernel", {})
    entries = list(journal.read(path / "journal.jsonl"))
    started: dict[str, float] = {}
    unended: set[str] = set()
    unfit, how, ended = "", "", None
    for entry in entries:
        match entry["what"]:
            case "test-start":
                started[entry["test"]] = _epoch(entry)
                unended.add(entry["test"])
            case "test-end":
                unended.discard(entry["test"])
            case "connect-failed":
                unfit = str(entry.get("error", "")).split("\n")[0]
            case "unfit":
                unfit = str(entry.get("reason", ""))
            case "run-start":
                unfit, how, ended = "", "", None  # it was resumed: that is what counts
            case "run-end":
                how, ended = str(entry.get("how", "")), _epoch(entry)
    began = _epoch(entries[0]) if entries else _named_time(path)
    return ReadRun(
        name=path.resolve().name,
        path=path.resolve(),
        target=str(target.get("name", "")),
        driver=str(target.get("driver", "")),
        night=str(facts.get("night", "")),
        kernel=str(kernel.get("uname", {}).get("release", "")),
        build=_build(facts),
        started=began,
        ended=ended,
        how=how,
        unfit=unfit,
        boots=len(facts.get("boots", [])),
        tests=tuple(_test(path, test, at, test in unended) for test, at in started.items()),
    )


def _test(path: Path, test: str, started: float, unended: bool) -> ReadTest:
    name, attempt = attempt_of(test)
    verdict = _Verdict(test, "error", ENDED)
    if not unended:
        try:
            verdict = _VERDICTS.decode(_whole(f"{path}/tests/{slug(test)}/verdict.json"))
        except (OSError, msgspec.DecodeError) as error:
            # msgspec.ValidationError is a DecodeError
            verdict = _Verdict(test, "error", f"its verdict cannot be read: {error}")
    failings = tuple(f for f in verdict.findings if f.severity != "note")
    if verdict.outcome == "incomplete" and verdict.reason == ENDED:
        verdict = msgspec.structs.replace(verdict, outcome="error")
    if verdict.outcome in OF_ITS_OWN and not any(f.severity == "fail" for f in failings):
        kind, title = OF_ITS_OWN[verdict.outcome], verdict.reason.split("\n")[0]
        failings += (Failing(signature(kind, steady(title)), kind, "fail", title),)
    return ReadTest(name, attempt, started, verdict, failings)


def _whole(path: str) -> bytes:
    # Three calls of the kernel's; a Python file makes eight, and there are thousands of these.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _AT_ONCE)]
        while len(parts[-1]) == _AT_ONCE:
            parts.append(os.read(descriptor, _AT_ONCE))
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _state(path: str) -> bytes:
    # Not a Path: there are thousands of these in a night.
    try:
        found = os.stat(path)
    except OSError:
        return b"-"
    return f"{found.st_size}.{found.st_mtime_ns}.{found.st_ino};".encode()


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _build(facts: dict[str, Any]) -> str:
    """The identity of what was booted: release, its build, its configuration, our modules."""
    kernel, machine = facts.get("kernel", {}), facts.get("machine", {})
    uname = kernel.get("uname", {})
    parts = (
        uname.get("release", ""),
        uname.get("version", ""),
        (kernel.get("config") or {}).get("sha256", ""),
        machine.get("module_hash", ""),
        str(machine.get("patches", "")),
    )
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def _epoch(entry: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(entry["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _named_time(path: Path) -> float:
    found = re.match(r"\d{8}T\d{6}Z", path.resolve().name)
    if found is None:
        return 0.0
    return datetime.strptime(found[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
