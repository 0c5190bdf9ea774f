"""The table of injected faults: each must cost its own test, and no more than seconds.

`python -m harness.tests.vm.faults` lets machine, agent, link, disk and harness die in each
way and prints what became of the night; it exits with 0 only when all is as this table says.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.deadline import Deadline
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.tests.inner import ROOT, Session, processes_mentioning, targets_file
from harness.tests.vm import sandbox
from harness.tests.vm.victims.faults import FLOOD, LINES
from harness.verdict import Verdict, recorded

__all__ = ["ROWS", "Result", "Row", "measure"]

VICTIMS = "harness/tests/vm/victims/faults.py"
TARGET = "sim-faults"
# Quiet tests, for faults of the harness's own.
COUNT = 4
TESTS = tuple(f"{VICTIMS}::test_quiet[{number}]" for number in range(COUNT))
# Room for evidence, in MiB: a flood must fit, and filling it must not take long.
DISK_MIB = 256
SEED, POINTS, POINTS_DEEP = 8, 3, 50
# The heartbeat limit of the table's targets, in seconds.
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what must come of it.

    `says` is what the verdict's reason must hold; `lost_s` how many seconds, detection included,
    it may cost beyond the boot itself; `after` what becomes of the next test: "pass", or "unfit"
    where nobody could bring the target back.
    """

    fault: str
    outcome: str
    says: str = ""
    lost_s: float = 5.0
    after: str = "pass"


LINK = "same boot"
# A link that broke is found by the harness's own heartbeat; a new agent takes its time, too.
LINK_S = SILENCE_S + 5

ROWS = (
    Row("panic", "incomplete", "the kernel panicked: sysrq triggered crash"),
    Row("oops", "incomplete", "the kernel panicked: Fatal exception"),
    # Its buddy looks every 12 s: once in vain after a line on the console, which touches the
    # watchdog, once more after RCU's report of the stall, and once for a count to compare with
    # (kernel/watchdog.c, watchdog_hardlockup_check).  Then it is on the console.
    Row("hard_lockup", "incomplete", "the kernel panicked: Hard LOCKUP", SILENCE_S + 5),
    Row("sshd_killed", "error", LINK, LINK_S),
    Row("agent_stopped", "error", LINK, LINK_S),
    Row("network_5s", "pass"),
    Row("network_60s", "error", LINK, LINK_S),
    Row("console_flood", "pass", lost_s=3600.0),
    Row("console_cut", "incomplete", "", SILENCE_S + 5),
    Row("disk_full_target", "error", LINK, LINK_S),
    Row("disk_full_host", "error", "No space left on device"),
    Row("clock_jump", "pass"),
    Row("qemu_killed", "incomplete", "QEMU ended: killed by signal 9"),
    Row("reinstalled", "error", "host key mismatch", 0.0, after="unfit"),
    Row("reboot_loop", "incomplete", "the kernel panicked", 0.0, after="unfit"),
    Row("no_boot", "error", "panics while it boots", 0.0, after="unfit"),
    Row("two_harnesses", "pass", "", 0.0),
    Row("harness_killed", "incomplete", "the harness ended during this test", 0.0),
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


def measure(faults: Iterable[str], directory: Path, deep: bool = False) -> tuple[list[Result], str]:
    """Run the rows called `faults`; their results, and what pytest printed."""
    rows = [row for row in ROWS if row.fault in set(faults)]
    results: dict[str, Result] = {}
    printed = []
    together = [row for row in rows if row.after == "pass" and row.fault not in SINGLE]
    alone = [row for row in rows if row.after != "pass" and row.fault not in SINGLE]
    for group in ([together] if together else []) + [[row] for row in alone]:
        told, said = _session(group, directory / group[0].fault)
        printed.append(said)
        results |= {result.row.fault: result for result in told}
    for row in rows:
        if row.fault in SINGLE:
            (directory / row.fault).mkdir(parents=True, exist_ok=True)
            results[row.fault], said = SINGLE[row.fault](row, directory / row.fault, deep)
            printed.append(said)
    return [results[row.fault] for row in rows], "\n".join(printed)


def _sandboxed(directory: Path, cmdline: str = "") -> Session:
    (directory / "runs").mkdir(parents=True, exist_ok=True)
    path = targets_file(directory / "targets.toml", TARGET, cmdline, tdr_s=20)
    return Session(path, directory / "runs", TARGET)


def _session(rows: list[Row], directory: Path) -> tuple[list[Result], str]:
    """Rows whose fault is on the target: one session, each fault followed by another test."""
    session = _sandboxed(directory)
    argv = session.argv(
        *(f"{VICTIMS}::test_day[{row.fault}-{state}]" for row in rows for state in ("on", "after"))
    )
    done = subprocess.run(
        sandbox.command(argv, session.runs, DISK_MIB),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if not session.run_dirs():
        return [Result(row, "", "", None, None, "did not run") for row in rows], done.stdout
    (run,) = session.run_dirs()
    known = session.verdicts()
    return [_result(row, run, known, done.stdout) for row in rows], done.stdout


def _result(row: Row, run: RunDir, known: dict[str, Verdict], printed: str) -> Result:
    on = known.get(f"test_day[{row.fault}-on]")
    after = known.get(f"test_day[{row.fault}-after]")
    if on is None:
        return Result(row, "", "", None, None, "did not run")
    lost, boot = _lost(row, run)
    problems = []
    if on.outcome != row.outcome or row.says not in on.reason:
        problems.append(f"wanted {row.outcome}: {row.says}")
    if row.after == "unfit":
        if after is not None or "recovery failed" not in printed:
            problems.append(f"the next test was not an error: {after}")
    elif after is None or after.outcome != "pass":
        told = f"{after.outcome}: {after.reason}" if after else "did not run"
        problems.append(f"the next test: {told}")
    elif lost is None:
        problems.append("no time measured")
    elif lost > row.lost_s:
        problems.append(f"lost more than {row.lost_s:g} s")
    if missing := _missing(row, run):
        problems.append(f"lines lost: {missing}")
    return Result(row, on.outcome, on.reason, lost, boot, "; ".join(problems))


def _missing(row: Row, run: RunDir) -> list[int]:
    """Which of the victim's lines are in no kernel log; a flood's bytes that are not there."""
    logs = b"".join(path.read_bytes() for path in run.path.glob("boot-*/kmsg"))
    missing = [n for n in range(1, LINES + 1) if f"fault {row.fault} {n}.".encode() not in logs]
    if row.fault == "console_flood":
        seen = sum(path.read_bytes().count(b"~") for path in run.path.glob("boot-*/console.log"))
        missing += [FLOOD - seen] if seen < FLOOD else []
    return missing


def _lost(row: Row, run: RunDir) -> tuple[float | None, float | None]:
    """Seconds from the fault until the next test began, and of these those of the boot: from the
    last time that the machine began to boot until it was reached; a new agent on the old boot is
    none, and counts as lost.  Where the link held, less what the next test takes, which does
    nothing: any test takes that here."""
    began = booting = boot = after = None
    broke = False
    entries = iter(journal.read(run.journal.path))
    for entry in entries:
        if entry["what"] == "fault" and entry["fault"] == row.fault:
            began = _when(entry)
            break
    for entry in entries:
        if entry["what"] == "booting":
            booting = _when(entry)
        elif entry["what"] == "attaching":
            broke = True
        elif entry["what"] == "boot" and booting is not None:
            boot = _when(entry) - booting
        elif entry["what"] == "test-start":
            after = _when(entry)
        elif entry["what"] == "test-end" and began is not None and after is not None:
            usual = 0.0 if broke else _when(entry) - after
            return max(0.0, after - began - (boot or 0.0) - usual), boot
    return None, None


def _when(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


# -- faults of the harness's own ---------------------------------------------------


def _no_boot(row: Row, directory: Path, deep: bool) -> tuple[Result, str]:
    """A kernel that panics at every boot: all tests are the lab's errors, none a failure."""
    session = _sandboxed(directory, "init=/nowhere")
    done = session.run(f"{VICTIMS}::test_day[panic-on]", f"{VICTIMS}::test_day[panic-after]")
    # The kernel's own words have a "failed", too.
    judged = re.search(r"\d+ (failed|passed)", done.stdout)
    right = row.says in done.stdout and "2 errors" in done.stdout and not judged
    problem = "" if right else f"wanted 2 errors: {row.says}"
    return Result(row, "error", _line(done.stdout, "panics"), None, None, problem), done.stdout


def _two_harnesses(row: Row, directory: Path, deep: bool) -> tuple[Result, str]:
    """The second is told who holds the target, and the first does not notice."""
    session = _sandboxed(directory)
    process = session.start(*TESTS)
    session.wait_for_test(process, Deadline(600))
    second = session.run(*TESTS)
    status = process.wait(600)
    outcomes = {verdict.outcome for run in session.run_dirs() for verdict in recorded(run).values()}
    right = second.returncode != 0 and f"pid {process.pid}" in second.stdout
    problem = "" if right else "the second was not refused"
    if status != 0 or outcomes != {"pass"}:
        problem += f" the first: exit status {status}, {outcomes}"
    told = _line(second.stdout, "held by")
    return Result(row, "pass", told, None, None, problem.strip()), second.stdout


def _harness_killed(row: Row, directory: Path, deep: bool) -> tuple[Result, str]:
    """SIGKILL at points that a printed seed chose, by turns while the target comes up and while it
    is tested, as fractions of what either takes here and now; then --resume until all is done."""
    chosen = random.Random(SEED)
    problems, told, printed = [], [], []
    calm = _sandboxed(directory / "calm")
    began = time.monotonic()
    process = calm.start(*TESTS)
    calm.wait_for_test(process, Deadline(600))
    up = time.monotonic() - began
    process.wait()
    seconds = (up, time.monotonic() - began - up)
    printed.append((calm.runs / "output.txt").read_text())
    if {verdict.outcome for verdict in calm.verdicts().values()} != {"pass"}:
        problems.append("nobody was killed, and not all passed")
    for number in range(POINTS_DEEP if deep else POINTS):
        session = _sandboxed(directory / str(number))
        process = session.start(*TESTS)
        phase = number % 2
        point = chosen.random() * seconds[phase]
        if phase:
            session.wait_for_test(process, Deadline(600))
        if not Deadline(point).pause(point) or process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # One that was killed before it knew its target has nothing to go on with.
        resume = ["--resume"] if any(session.runs.glob("*/run.json")) else []
        done = session.run(*TESTS, *resume)
        outcomes = sorted(v.outcome for v in session.verdicts().values())
        whole = len(outcomes) == COUNT and set(outcomes[1:]) <= {"pass"}
        left = processes_mentioning(f"process=tdrlab-{TARGET}")
        where = "test" if phase else "boot"
        told.append(f"{where} {point:.1f} s {outcomes[0] if outcomes else 'nothing'}")
        if not whole or outcomes[0] not in ("incomplete", "pass") or left:
            problems.append(f"point {number}, {where} {point:.2f} s: {outcomes}, left: {left}")
            printed.append(done.stdout)
    problem = "; ".join(problems)
    if not problems:
        printed.clear()
    reason = f"seed {SEED}, boot {up:.1f} s, tests {seconds[1]:.1f} s: " + "; ".join(told)
    return Result(row, "incomplete", reason, None, None, problem), "\n".join(printed)


SINGLE: dict[str, Callable[[Row, Path, bool], tuple[Result, str]]] = {
    "no_boot": _no_boot,
    "two_harnesses": _two_harnesses,
    "harness_killed": _harness_killed,
}


def _line(printed: str, words: str) -> str:
    return next((line.strip() for line in printed.splitlines() if words in line), "")


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
    parser.add_argument("--deep", action="store_true", help="kill the harness at 50 points")
    parser.add_argument("--markdown", action="store_true", help="print it as the README has it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lab-faults-") as scratch:
        directory = chosen.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        results, printed = measure(chosen.faults or names, directory, chosen.deep)
    console = Console(highlight=False)
    if any(result.problem for result in results):
        console.print(printed, markup=False)
    if chosen.markdown:
        print(_markdown(results))
        for result in results:
            if result.problem:
                print(f"{result.row.fault}: {result.problem}")
    else:
        console.print(_table(results))
    wrong = sum(1 for result in results if result.problem)
    console.print(f"{len(results)} faults: {len(results) - wrong} as wanted, {wrong} not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
