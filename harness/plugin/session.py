"""The session: its targets, from the reading of their list to the report on each.

What is wrong with the options or the target list ends it before it begins.
"""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any

import pytest

from harness import inventory, known
from harness.errors import HarnessError
from harness.fleet import Fleet
from harness.lab import report, telling
from harness.lab.visible import visible
from harness.plugin import options
from harness.plugin.stash import FLEET, KNOWN, SHOWN, TROUBLE, target_of

__all__ = [
    "pytest_configure",
    "pytest_report_collectionfinish",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
]

WITHOUT_LOCKDEP = "without_lockdep: proves its point in a boot that a known issue left blind, too"
DESTRUCTIVE = "destructive: hangs or resets the GPU; runs only where the target opted in"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", DESTRUCTIVE)
    config.addinivalue_line("markers", WITHOUT_LOCKDEP)
    names = list(dict.fromkeys(config.getoption("--target")))
    if not names:
        return
    try:
        listed = inventory.load(config.getoption("--inventory") or inventory.default_path())
        config.stash[KNOWN] = known.of_list(listed, config.getoption("--known"))
        config.stash[FLEET] = Fleet(
            listed,
            names,
            config.getoption("--runs") or listed.runs,
            config.getoption("--resume"),
            shlex.join(["pytest", *config.invocation_params.args]),
            _speaker(config),
            dangerous=config.getoption("--dangerous"),
            night=config.getoption("--night"),
            wait_s=config.getoption("--wait"),
            kernel=config.getoption("--kernel"),
            boot=config.getoption("--boot"),
        )
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SHOWN] = {}
    options.settle(config)
    # So that a supervisor's SIGTERM releases the hangs and stops the machines, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    fleet = config.stash.get(FLEET, None)
    if fleet is None or config.option.collectonly:
        return []
    lines = config.stash[KNOWN].stale()
    for name in dict.fromkeys(filter(None, map(target_of, items))):
        try:
            lines.append(telling.headline(fleet.dut(name)))
        except HarnessError as error:
            lines.append(f"{name}: {error.fault}: {error}")
    return lines


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    fleet = session.config.stash.get(FLEET, None)
    if fleet is None:
        return
    how = "interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "done"
    blind = False
    try:
        for run in fleet.runs.values():
            blind |= any(v.outcome == "blind" and not v.masked for v in report.verdicts(run))
            report.write(run)
    except HarnessError as error:
        session.config.stash[TROUBLE] = error
    try:
        fleet.close(how)
    except HarnessError as error:
        session.config.stash.setdefault(TROUBLE, error)
    lost = TROUBLE in session.config.stash
    if exitstatus == 0 and (lost or (blind and not session.config.getoption("--allow-blind"))):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return
    terminalreporter.section("verdicts")
    for name, run in fleet.runs.items():
        counts = report.counts(report.verdicts(run))
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no verdict"
        terminalreporter.line(f"{name}: {told}")
        terminalreporter.line(f"  evidence {run.path}")
        terminalreporter.line(f"  report   {run.path / 'report.html'}")
        for line in telling.of_issues(report.verdicts(run)):
            terminalreporter.line(f"  {line}")
        if config.getoption("--boot") is not None and name not in fleet.broken():
            terminalreporter.line(f"  it may still run the kernel of --boot: lab boot {name} --own")
    for name, error in fleet.broken().items():
        terminalreporter.line(visible(f"{name}: not reached: {error}"))
    if (trouble := config.stash.get(TROUBLE, None)) is not None:
        terminalreporter.line(f"the session did not end well: {trouble}", red=True)


# -- inside -----------------------------------------------------------------------


def _speaker(config: pytest.Config) -> Any:
    def say(line: str) -> None:
        line = visible(line)
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            sys.stderr.write(line + "\n")
        else:
            reporter.ensure_newline()
            reporter.write_line(line)

    return say


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
