"""The table of injected faults: each must cost its own test, and no more than seconds.

`python -m harness.tests.vm.faults` lets machine, agent, link, disk and harness die in each
way and prints what became of the night; it exits with 0 only when all is as this table says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.tests.inner import Session, targets_file
from harness.tests.vm.victims.faults import LINES
from harness.verdict import Verdict

__all__ = ["ROWS", "Result", "Row", "measure"]

VICTIMS = "harness/tests/vm/victims/faults.py"
# The heartbeat limit of the table's targets, in seconds.
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what must come of it.

    `says` is what the verdict's reason must hold; `lost_s` how many seconds, detection included,
    it may cost beyond the boot itself.
    """

    fault: str
    outcome: str
    says: str
    lost_s: float = 5.0


ROWS = (
    Row("panic", "incomplete", "sysrq triggered crash"),
    Row("oops", "incomplete", "panic"),
    Row("hard_lockup", "incomplete", "", SILENCE_S + 5),
    Row("agent_stopped", "error", "same boot", SILENCE_S + 5),
    Row("sshd_killed", "error", "same boot"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row: `problem` is "" when all is as wanted; `lost_s` None: not measured."""

    row: Row
    outcome: str
    reason: str
    lost_s: float | None
    boot_s: float | None
    problem: str


def measure(faults: Iterable[str], directory: Path) -> tuple[list[Result], str]:
    """Run the rows called `faults`; their results, and what pytest printed."""
    rows = [row for row in ROWS if row.fault in set(faults)]
    return _session(rows, directory) if rows else ([], "")


def _session(rows: list[Row], directory: Path) -> tuple[list[Result], str]:
    """Rows whose fault is on the target: one session, each fault followed by another test."""
    name = "sim-faults"
    session = Session(
        targets_file(directory / "targets.toml", name, tdr_s=20), directory / "runs", name
    )
    done = session.run(
        *(f"{VICTIMS}::test_day[{row.fault}-{state}]" for row in rows for state in ("on", "after"))
    )
    if not session.run_dirs():
        return [Result(row, "", "", None, None, "did not run") for row in rows], done.stdout
    (run,) = session.run_dirs()
    known = session.verdicts()
    return [_result(row, run, known) for row in rows], done.stdout


def _result(row: Row, run: RunDir, known: dict[str, Verdict]) -> Result:
    on = known.get(f"test_day[{row.fault}-on]")
    after = known.get(f"test_day[{row.fault}-after]")
    if on is None or after is None:
        return Result(row, on.outcome if on else "", "", None, None, "did not run")
    lost, boot = _lost(row, run)
    problems = []
    if on.outcome != row.outcome or row.says not in on.reason:
        problems.append(f"wanted {row.outcome}: {row.says}")
    if after.outcome != "pass":
        problems.append(f"the next test: {after.outcome}: {after.reason}")
    if missing := _missing(row, run):
        problems.append(f"lines lost: {missing}")
    if lost is None:
        problems.append("no time measured")
    elif lost > row.lost_s:
        problems.append(f"lost more than {row.lost_s:g} s")
    return Result(row, on.outcome, on.reason, lost, boot, "; ".join(problems))


def _missing(row: Row, run: RunDir) -> list[int]:
    """Which of the victim's lines are in no kernel log."""
    logs = b"".join(path.read_bytes() for path in run.path.glob("boot-*/kmsg"))
    return [n for n in range(1, LINES + 1) if f"fault {row.fault} {n}.".encode() not in logs]


def _lost(row: Row, run: RunDir) -> tuple[float | None, float | None]:
    """Seconds from the fault until the next test began, and of these those of the boot: from
    the last time that the machine began to boot until it was reached."""
    began = booting = boot = None
    entries = iter(journal.read(run.journal.path))
    for entry in entries:
        if entry["what"] == "fault" and entry["fault"] == row.fault:
            began = _when(entry)
            break
    for entry in entries:
        if entry["what"] == "booting":
            booting = _when(entry)
        elif entry["what"] == "boot" and booting is not None:
            boot = _when(entry) - booting
        elif entry["what"] == "test-start" and began is not None:
            return _when(entry) - began - (boot or 0.0), boot
    return None, None


def _when(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


def _table(results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("fault", "verdict", "reason", "lost s", "wanted", "boot s", ""):
        table.add_column(column, overflow="fold")
    for result in results:
        mark = f"[red]{escape(result.problem)}[/]" if result.problem else "[green]ok[/]"
        table.add_row(*map(escape, _cells(result)), mark)
    return table


def _cells(result: Result) -> tuple[str, ...]:
    row = result.row
    reason = result.reason.splitlines()[0] if result.reason else ""
    lost = "" if result.lost_s is None else f"{result.lost_s:.1f}"
    boot = "" if result.boot_s is None else f"{result.boot_s:.1f}"
    return row.fault, result.outcome, reason, lost, f"{row.lost_s:g}", boot


def _markdown(results: list[Result]) -> str:
    """As the README has it."""
    head = ["fault", "verdict", "reason", "lost s", "wanted", "boot s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        lines.append(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(result))} |"
        )
    return "\n".join(lines)


def main() -> int:
    """All rows, or those named; 0 only when each is as wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [row.fault for row in ROWS]
    parser.add_argument("faults", nargs="*", choices=[[], *names], metavar="FAULT")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the evidence here")
    parser.add_argument("--markdown", action="store_true", help="print it as the README has it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lab-faults-") as scratch:
        directory = chosen.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        results, printed = measure(chosen.faults or names, directory)
    console = Console(highlight=False)
    if any(result.problem for result in results):
        console.print(printed, markup=False)
    if chosen.markdown:
        print(_markdown(results))
    else:
        console.print(_table(results))
    wrong = sum(1 for result in results if result.problem)
    console.print(f"{len(results)} faults: {len(results) - wrong} as wanted, {wrong} not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
