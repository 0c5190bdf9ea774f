"""The detection matrix: every fault of simgpu, who must catch it, and by what.

`python -m harness.tests.vm.matrix` breaks the virtual GPU in each way and prints what the
harness made of it; it exits with 0 only when all is as this table says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.evidence.finding import Finding
from harness.kernel import lockdep
from harness.tests.inner import Session, targets_file
from harness.verdict import Verdict

__all__ = ["ENGINE", "ROWS", "Result", "Row", "measure"]

RECOVERS = "testcases/test_hang.py::test_recovers"
GUILTY = "testcases/test_hang.py::test_the_guilty_is_told"
NEIGHBOUR = "testcases/test_hang.py::test_neighbour_of_a_hang"
PICTURE = "testcases/test_display.py::test_picture_and_flips_survive_a_hang"
DUMP = "testcases/test_coredump.py::test_hang_leaves_a_whole_dump"
MEMORY = "testcases/test_memory.py::test_resets_leak_no_memory"
TRUTH = "testcases/test_waits.py::test_every_wait_is_told_the_truth"
UNINTERRUPTED = "testcases/test_waits.py::test_who_cannot_be_interrupted_completes"
SHARED = "testcases/test_sharing.py::test_another_driver_sees_the_end_of_a_hang"
DEADLOCK = "testcases/test_deadlock.py::test_recovery_passes_a_waiting_modeset"
NOTIFIER = "mmu_notifier_invalidate_range_start"
# Testcases that go through the engines need only one.
ENGINE = "gfx"
# So that a task that never wakes is reported within a test, which waits `tdr_s` for its fence,
# yet not a commit that waits for a vblank that never comes, which gives up after 10 s.
CMDLINE = "sysctl.kernel.hung_task_timeout_secs=12 sysctl.kernel.hung_task_check_interval_secs=2"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what must come of it.

    `kind` is the finding's, or "assertion" where the testcase says it itself.  `names` is what
    the finding must hold: of a lockdep report, the lock that was being taken; else text.  With
    `parameter` ("name=value") that parameter of the module is set, and `fault` is only the
    row's name.
    """

    fault: str
    kind: str
    names: str
    outcome: str = "fail"
    testcase: str = RECOVERS
    parameter: str = ""


ROWS = (
    Row("console_lock", "lockdep", "console_lock"),
    Row("modeset_locks", "lockdep", "crtc_ww_class_acquire"),
    Row("modeset_locks", "deadlock", "behind a commit that waits", testcase=DEADLOCK),
    Row("dma_resv", "lockdep", "reservation_ww_class_acquire"),
    Row("dma_resv", "lockdep", "reservation_ww_class_acquire", testcase=SHARED),
    Row("gfp_kernel", "lockdep", "fs_reclaim"),
    Row("mmu_notifier", "lockdep", NOTIFIER),
    Row("mmu_notifier", "lockdep", NOTIFIER, testcase=UNINTERRUPTED),
    Row("own_lock", "lockdep", "&sdev->faults.own_lock"),
    Row("flush_own_work", "lockdep", "(work_completion)(&(&sched->work_tdr)->work)"),
    Row("remedy_restart", "lockdep", "crtc_ww_class_acquire", parameter="sim_remedy=restart"),
    Row("remedy_force", "recovery", "reset-failed", parameter="sim_remedy=force"),
    Row("fence_pending", "fence-late", "only after its deadline"),
    Row("fence_no_error", "fence-error", "of a killed job has no error"),
    Row("fence_wrong_error", "fence-error", "of a killed job ended with EIO"),
    Row("fence_order", "fence-order", "signalled after a later one", testcase=NEIGHBOUR),
    Row("fence_seqno", "fence-seqno", "not numbered above", testcase=NEIGHBOUR),
    Row("fence_freed", "warning", "WARNING in dma_fence_release"),
    Row("fence_freed_silent", "fence-freed", "was freed unsignalled"),
    Row("fence_late", "fence-late", "only after its deadline"),
    Row("recover_twice", "assertion", "2 recoveries"),
    Row("innocent_blamed", "assertion", "did nothing is called guilty", testcase=GUILTY),
    Row("wait_eintr", "wait-eintr", "EINTR although no signal came"),
    Row("wait_eintr", "assertion", ": EINTR;", testcase=TRUTH),
    Row("wait_errno_512", "wait-restart", "ERESTARTSYS reached userspace"),
    Row("wait_errno_512", "assertion", ": ERESTARTSYS;", testcase=TRUTH),
    Row("wait_not_woken", "fence-waiter", "slept on after"),
    Row("wait_not_woken", "assertion", "not in time", testcase=TRUTH),
    Row("modeset_deadlock", "hung_task", "task hung in sim_fault_hold"),
    Row("mode_lost", "commit-timeout", "flip_done timed out", testcase=PICTURE),
    Row("vblank_dead", "commit-timeout", "flip_done timed out", testcase=PICTURE),
    Row("flip_lost", "assertion", "the event of a flip", testcase=PICTURE),
    Row("frame_corrupt", "assertion", "another frame is scanned out", testcase=PICTURE),
    Row("dump_missing", "assertion", "no devcoredump", testcase=DUMP),
    Row("dump_truncated", "assertion", "dwords of ring", testcase=DUMP),
    Row("recovery_never_ends", "hung_task", "task hung in sim_fault_machine"),
    Row("recovery_fails", "recovery", "reset-failed"),
    Row("warn", "warning", "WARNING in sim_fault_machine"),
    Row("oops", "oops", "NULL pointer dereference in sim_fault_machine"),
    Row("panic", "panic", "kernel panic", outcome="incomplete"),
    Row("hard_lockup", "hard_lockup", "hard LOCKUP", outcome="incomplete"),
    Row("log_flood", "log-flood", "flooded with: amdgpu"),
    Row("leak", "assertion", "KiB of memory", testcase=MEMORY),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row: `problem` is "" when all is as expected."""

    row: Row
    on: Verdict | None
    off: Verdict | None
    caught: Finding | None
    problem: str

    @property
    def found(self) -> str:
        """What was seen, in one line."""
        if self.caught is not None:
            return self.caught.title.removeprefix("AssertionError: ")
        return self.on.reason if self.on is not None else ""


def measure(faults: Iterable[str], directory: Path) -> tuple[list[Result], str]:
    """Run the rows of `faults`, of which one may have several, in one inner session; their
    results, and what pytest printed."""
    rows = [row for row in ROWS if row.fault in set(faults)]
    session = Session(
        targets_file(directory / "targets.toml", "sim-matrix", CMDLINE, tdr_s=20),
        directory / "runs",
        "sim-matrix",
    )
    done = session.run(
        *("-p", "harness.tests.vm.faultplugin", "--allow-blind"),
        *(f"--sim-fault={fault}" for fault in dict.fromkeys(row.fault for row in rows)),
        *dict.fromkeys(row.testcase for row in rows),
    )
    known = session.verdicts() if session.run_dirs() else {}
    return [_result(row, known) for row in rows], done.stdout


def _result(row: Row, known: dict[str, Verdict]) -> Result:
    name = row.testcase.rpartition("::")[2]
    on, off = (_verdict(known, name, f"{row.fault}-{state}") for state in ("on", "off"))
    caught = _caught(row, on) if on is not None else None
    return Result(row, on, off, caught, _problem(row, on, off, caught))


def _verdict(known: dict[str, Verdict], name: str, state: str) -> Verdict | None:
    """Of a testcase that has an engine in its id, or none."""
    return known.get(f"{name}[{ENGINE}-{state}]", known.get(f"{name}[{state}]"))


def _problem(row: Row, on: Verdict | None, off: Verdict | None, caught: Finding | None) -> str:
    if on is None or off is None:
        return "did not run"
    if off.outcome != "pass":
        return f"not clean with the fault off: {off.outcome}: {off.reason}"
    if caught is None:
        return f"not caught as {row.kind} {row.names}: {on.outcome}: {on.reason}"
    if on.outcome != row.outcome:
        return f"caught, but the outcome is {on.outcome}: {on.reason}"
    return ""


def _caught(row: Row, on: Verdict) -> Finding | None:
    """The finding that names the fault; an assertion is made to look like one."""
    if row.kind == "assertion":
        alone = not any(f.severity == "fail" for f in on.findings)
        said = Finding("assertion", "fail", on.reason, "")
        return said if alone and on.outcome == "fail" and row.names in on.reason else None
    for finding in on.findings:
        if finding.kind == row.kind and finding.severity != "note" and _names(finding, row.names):
            return finding
    return None


def _names(finding: Finding, wanted: str) -> bool:
    if finding.kind != "lockdep":
        return wanted in finding.title
    # What was being taken, not just some class of the cycle: boot priming puts more in there.
    report = lockdep.parse(finding.text.split("\n"))
    return report is not None and report.wanted is not None and report.wanted.name == wanted


def _table(results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("fault", "caught by", "finding", "seconds", ""):
        table.add_column(column, overflow="fold")
    for result in results:
        mark = f"[red]{escape(result.problem)}[/]" if result.problem else "[green]ok[/]"
        table.add_row(*map(escape, _cells(result)), mark)
    return table


def _cells(result: Result) -> tuple[str, str, str, str]:
    row = result.row
    outcome = "" if row.outcome == "fail" else f" ({row.outcome})"
    seconds = f"{result.on.seconds:.0f}" if result.on else ""
    found = f"{row.kind}: {result.found}{outcome}"
    return row.fault, row.testcase.rpartition("::")[2], found, seconds


def _markdown(results: list[Result]) -> str:
    """As the README has it."""
    lines = ["| fault | caught by | finding | s |", "|---|---|---|---|"]
    for result in results:
        cells = [cell.replace("__", r"\_\_").replace("|", r"\|") for cell in _cells(result)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """All rows, or those named; 0 only when each is as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*dict.fromkeys(row.fault for row in ROWS)]
    parser.add_argument("faults", nargs="*", choices=[[], *names], metavar="FAULT")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the evidence here")
    parser.add_argument("--markdown", action="store_true", help="print it as the README has it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lab-matrix-") as scratch:
        directory = chosen.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        results, printed = measure(chosen.faults or names, directory)
    console = Console(highlight=False)
    if all(result.on is None for result in results):
        console.print(printed, markup=False)
    if chosen.markdown:
        print(_markdown(results))
    else:
        console.print(_table(results))
    wrong = sum(1 for result in results if result.problem)
    console.print(f"{len(results)} faults: {len(results) - wrong} caught, {wrong} not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
