"""The fence account for a person: one test's, or a line for each test of a run.

Text from the run directory alone; the pictures are made by harness/fence/.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from harness.account import Account, open_account
from harness.errors import UsageError
from harness.evidence.files import read_json
from harness.evidence.rundir import RunDir, Window
from harness.fence import perfetto, sheet, timeline
from harness.fence.fences import STATES, Role
from harness.fence.ledger import Ledger
from harness.fence.recoveries import Recovery
from harness.lab.casefile import named

__all__ = ["accounts", "export", "show", "show_run"]

# As many recoveries of one test are told one by one.
SHOWN = 5


def accounts(path: Path) -> Iterator[tuple[RunDir, Window, Account]]:
    """The accounts of what `path` names: a run directory, one of its tests' directories, or
    RUN/TEST with the test's node id.  Raises UsageError where it is neither."""
    run, tests = named(path)
    for test in tests:
        window = run.test(test) / "window.json"
        if window.exists():
            opened = msgspec.convert(read_json(window), Window)
            yield run, opened, open_account(run, opened)


def export(found: list[tuple[RunDir, Window, Account]], form: str, out: IO[bytes]) -> None:
    """One test's account as svg, perfetto, csv or json.  Raises UsageError for several tests, or
    one without an account."""
    if len(found) != 1 or found[0][2].ledger is None:
        why = found[0][2].why if len(found) == 1 else f"{len(found)} tests"
        raise UsageError(
            f"no single account to export: {why}", where=form, cure="name one test: RUN/TEST"
        )
    _, window, account = found[0]
    ledger = account.ledger
    assert ledger is not None
    if form == "svg":
        out.write(timeline.render(ledger, window.test).encode())
    elif form == "perfetto":
        perfetto.write(ledger, cast(BinaryIO, out), window.test)
    elif form == "csv":
        text = io.TextIOWrapper(cast(BinaryIO, out), encoding="utf-8", newline="")
        sheet.write_csv(ledger, text)
        text.flush()
        text.detach()
    else:
        out.write(sheet.to_json(ledger) + b"\n")


def show_run(found: list[tuple[RunDir, Window, Account]], console: Console) -> None:
    """One line a test."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "test",
        "account",
        "jobs",
        "fences",
        "forced",
        "waits",
        "recoveries",
        "breaches",
    ):
        words = column in ("test", "account")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for _, window, account in found:
        cells = [""] * 5 if account.ledger is None else _numbers(account.ledger)
        failing = sum(finding.severity == "fail" for finding in account.findings)
        name = escape(window.test.removeprefix("testcases/"))
        table.add_row(name, _state(account), *cells, str(failing or ""))
    console.print(table)


def _numbers(ledger: Ledger) -> list[str]:
    counts = ledger.counts()
    jobs = int(ledger.fences.jobs().sum())
    forced = sum(states.get("forced", 0) for states in counts.values())
    numbers = (jobs, len(ledger.fences), forced, len(ledger.waits), len(ledger.recoveries))
    return [str(number) for number in numbers]


def _state(account: Account) -> str:
    colour = {"accounted": "green", "unknown": "yellow", "none": "dim"}[account.state]
    why = f" ({escape(account.why)})" if account.why else ""
    return f"[{colour}]{account.state}[/]{why}"


def show(window: Window, account: Account, console: Console) -> None:
    """One test's account in full: how many fences of each role ended how, who waited, what
    recovery did, and each breach with its fence's story."""
    console.print(f"[bold]{escape(window.test)}[/]: {_state(account)}")
    if account.ledger is not None:
        for part in _parts(account.ledger):
            console.print(part)
    for finding in account.findings:
        colour = {"fail": "red", "unknown": "yellow", "note": "dim"}[finding.severity]
        console.print(f"\n[{colour}]{finding.kind} {finding.signature}[/] {escape(finding.title)}")
        console.print(finding.text, markup=False)


def _parts(ledger: Ledger) -> Iterator[RenderableType]:
    counts = ledger.counts()
    states = [s for s in STATES if any(s in row for row in counts.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("fences")
    for state in states:
        table.add_column(str(state), justify="right")
    for role in Role:
        if role in counts:
            numbers = (counts[role].get(state, 0) for state in states)
            table.add_row(str(role), *(str(number or "") for number in numbers))
    yield table
    for recovery in ledger.recoveries[:SHOWN]:
        yield _recovery(ledger, recovery)
    if len(ledger.recoveries) > SHOWN:
        yield f"and {len(ledger.recoveries) - SHOWN} recoveries more"
    slept = [wait for wait in ledger.waits if wait.end is not None]
    if ledger.waits:
        longest = max(slept, key=lambda w: (w.end or 0) - w.begin, default=ledger.waits[0])
        length = ((longest.end or ledger.last) - longest.begin) / 1e9
        yield (
            f"{len(ledger.waits)} waits, {len(ledger.waits) - len(slept)} not ended; the longest "
            f"{length:.3f} s by {escape(longest.comm or str(longest.pid))}"
        )


def _recovery(ledger: Ledger, recovery: Recovery) -> str:
    at = (recovery.begin - ledger.first) / 1e9
    who = ledger.comms.get(recovery.pid, f"pid {recovery.pid}")
    lasted = "never ended"
    if recovery.end is not None:
        lasted = f"{(recovery.end - recovery.begin) / 1e6:.1f} ms"
    return f"recovery at {at:+.6f} s on {escape(who)}: {lasted}"
