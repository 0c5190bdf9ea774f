"""Run directories as a nightly leaves them, made up: for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from harness.evidence.finding import Finding, signature
from harness.evidence.rundir import slug
from harness.verdict import Outcome, Verdict

__all__ = ["Test", "night_of", "run_of"]

DAY = 86400.0
FIRST = datetime(2026, 5, 1, 1, 0, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Test:
    """What one test is to have said; `title` makes a failing finding of it."""

    __test__ = False

    name: str
    outcome: Outcome = "pass"
    title: str = ""
    reason: str = ""
    known: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    times: Mapping[str, float] | None = None
    ended: bool = True


def run_of(
    runs: Path,
    target: str,
    tests: Sequence[Test],
    *,
    day: int = 0,
    night: str = "",
    kernel: str = "6.12.1",
    hour: float = 0.0,
    unfit: str = "",
    how: str = "done",
) -> Path:
    """A run directory: `day` days and `hour` hours after the first night began."""
    at = FIRST + day * DAY + hour * 3600
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    path = runs / f"{stamp}-{target}-{len(list(runs.glob('*'))):06x}"
    (path / "tests").mkdir(parents=True)
    facts = {
        "target": {"name": target, "driver": "amdgpu" if "navi" in target else "i915"},
        "kernel": {"uname": {"release": kernel, "version": "#1 SMP"}},
        "boots": ["b0"],
        "night": night,
    }
    (path / "run.json").write_bytes(msgspec.json.encode(facts))
    lines = [_line(at, "run-start", target=target)]
    for number, test in enumerate(tests):
        lines.append(_line(at + number, "test-start", test=test.name, boot="b0"))
        if not test.ended:
            continue
        lines.append(_line(at + number, "test-end", test=test.name, outcome=test.outcome))
        place = path / "tests" / slug(test.name)
        place.mkdir()
        (place / "verdict.json").write_bytes(msgspec.json.encode(_verdict(test)))
    if unfit:
        lines.append(_line(at + len(tests), "unfit", reason=unfit))
    if how:
        lines.append(_line(at + len(tests), "run-end", how=how))
    (path / "journal.jsonl").write_bytes(b"".join(lines))
    return path


def night_of(
    runs: Path,
    day: int,
    tests: Mapping[str, Sequence[Test]],
    troubles: Mapping[str, str] | None = None,
    kernel: str = "6.12.1",
) -> str:
    """A whole nightly: its journal, and a run for each target that was reached; its name."""
    at = FIRST + day * DAY
    troubles = troubles or {}
    name = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = runs / "nights" / name
    folder.mkdir(parents=True)
    targets = sorted({*tests, *troubles})
    lines = [_line(at, "night-start", targets=targets)]
    for target, said in tests.items():
        run_of(runs, target, said, day=day, night=name, kernel=kernel, hour=0.1)
    for target in targets:
        lines.append(_line(at + 3600, "target-end", target=target, why=troubles.get(target, "")))
    lines.append(_line(at + 3600, "night-end", how="done"))
    (folder / "night.jsonl").write_bytes(b"".join(lines))
    return name


def _verdict(test: Test) -> Verdict:
    found = [Finding("recovery", "note", "reset-done", signature("recovery", "reset-done"))]
    if test.title:
        found.append(Finding("warning", "fail", test.title, signature("warning", test.title)))
    verdict = Verdict(
        test=test.name,
        outcome=test.outcome,
        reason=test.reason or test.title,
        lockdep="armed",
        findings=tuple(found),
        seconds=1.5,
        known=test.known,
        fixed=test.fixed,
    )
    return msgspec.structs.replace(verdict, times=dict(test.times)) if test.times else verdict


def _line(at: float, what: str, **facts: Any) -> bytes:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({"time": time, "what": what, **facts}) + b"\n"
