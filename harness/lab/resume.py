"""Going on with a run that was cut short: which run, and which test it died in.

That test is incomplete, once: what killed the harness or its host may do so again, and a
night must not spend itself on it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from harness import verdict
from harness.errors import LabError, UsageError
from harness.evidence import journal
from harness.evidence.files import read_json, write_json
from harness.evidence.rundir import RunDir, Window
from harness.verdict import recorded

__all__ = ["close_guilty", "close_unopened", "guilty", "newest"]

WHY = "the harness ended during this test"


def newest(root: Path, target: str) -> Path:
    """The last run of `target` under `root`.  Raises UsageError where there is none."""
    # Their names begin with the time.
    for path in sorted(root.glob(f"*-{target}-*"), reverse=True):
        if (path / "journal.jsonl").exists() and _target(path) == target:
            return path
    raise UsageError(
        f"no run of {target} to go on with", where=str(root), cure="name one: --resume=RUN"
    )


def guilty(run: RunDir) -> list[str]:
    """Tests in which the harness was killed; not one that it was told to leave."""
    known = recorded(run)
    begun: dict[str, None] = {}
    for entry in journal.read(run.journal.path):
        if entry["what"] == "test-start":
            begun[entry["test"]] = None
        elif entry["what"] == "test-end":
            begun.pop(entry["test"], None)
        elif entry["what"] == "run-end":
            begun.clear()
    return [test for test in begun if test not in known]


def close_guilty(run: RunDir) -> list[str]:
    """Judge them, so that they are not run again; only by who holds the target."""
    tests = guilty(run)
    for test in tests:
        window = _window(run, test)
        window.died = window.died or WHY
        judged = verdict.record(run, window)
        run.journal.add("test-end", test=test, outcome=judged.outcome, reason=judged.reason)
    return tests


def close_unopened(run: RunDir, test: str, why: str) -> None:
    """Keep of a test whose window could not be opened that it is the lab's error, and never ran;
    else whoever reads the run would take it for one in which the harness was killed."""
    # Of no boot: its log is other tests' doing.
    window = Window(test=test, boot_id="", first_seq=0, offset=0, body="error", lab_error=why)
    with contextlib.suppress(LabError):  # where it is this host's disk, that is told already
        write_json(run.test(test) / "window.json", window)
        judged = verdict.record(run, window)
        run.journal.add("test-end", test=test, outcome=judged.outcome, reason=judged.reason)


def _window(run: RunDir, test: str) -> Window:
    path = run.test(test) / "window.json"
    if path.exists():
        return msgspec.convert(read_json(path), Window)
    # Killed between the journal's line and the window's opening.
    return Window(test=test, boot_id="", first_seq=0, offset=0)


def _target(path: Path) -> str:
    try:
        facts = read_json(path / "run.json")
    except LabError:
        return ""  # killed before it was written
    return str(facts.get("target", {}).get("name", ""))
