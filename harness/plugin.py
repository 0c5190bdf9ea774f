"""The pytest face: options, fixtures, and verdicts as outcomes.

Nothing else imports pytest.  `dut` is a connected target, `engine` each of its
engines; a finding fails the test that caused it, in its call phase.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from harness import inventory, known, masking, verdict
from harness.errors import HarnessError, LabError
from harness.evidence.rundir import Window
from harness.fence.ledger import Ledger
from harness.fleet import Fleet
from harness.gpu.base import Engine
from harness.known import KnownIssues
from harness.lab import report, telling
from harness.lab.visible import visible
from harness.live import healing
from harness.live.dut import Dut
from harness.verdict import Verdict

_FLEET = pytest.StashKey[Fleet]()
_WINDOW = pytest.StashKey[Window]()
_VERDICT = pytest.StashKey[Verdict]()
_SHOWN = pytest.StashKey[dict[str, str]]()
_TROUBLE = pytest.StashKey[HarnessError]()
_KNOWN = pytest.StashKey[KnownIssues]()

# What --until-fail takes for ever.
MOST_TRIES = 1000

WITHOUT_LOCKDEP = "without_lockdep: proves its point in a boot that a known issue left blind, too"
DESTRUCTIVE = "destructive: hangs or resets the GPU; runs only where the target opted in"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "GPU targets")
    group.addoption(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="a target of targets.toml to test; may be repeated",
    )
    group.addoption(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="the target list (default: $LAB_TARGETS, else targets.toml)",
    )
    group.addoption(
        "--known",
        type=Path,
        metavar="FILE",
        help="the known issues (default: known-issues.toml beside the target list, if there)",
    )
    group.addoption("--runs", type=Path, metavar="DIR", help="where run directories go")
    group.addoption(
        "--resume",
        type=Path,
        action="append",
        nargs="?",
        const=Path(),
        default=[],
        metavar="RUN",
        help="go on with a run, or without RUN with each target's last one: tests that have a"
        " verdict are not run again, nor is one in which the harness was killed",
    )
    group.addoption(
        "--count",
        type=int,
        default=0,
        metavar="N",
        help="run each test N times",
    )
    group.addoption(
        "--until-fail",
        action="store_true",
        help=f"run each test until one fails, at most {MOST_TRIES} times (or --count)",
    )
    group.addoption(
        "--wait",
        type=float,
        default=0.0,
        metavar="S",
        help="how long to wait for a target that somebody else holds (default: not at all)",
    )
    group.addoption("--night", default="", metavar="NAME", help="the nightly that this run is of")
    group.addoption(
        "--storm",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long a storm of jobs blows (default: 10)",
    )
    group.addoption(
        "--deep",
        action="store_true",
        help="also what is too long for CI; what is repeated, ten times as often",
    )
    group.addoption(
        "--dangerous",
        action="store_true",
        help="also hang in ways, and GPUs, from which the machine may not come back",
    )
    group.addoption(
        "--allow-blind",
        action="store_true",
        help="a test that ran without lockdep does not fail the session",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", DESTRUCTIVE)
    config.addinivalue_line("markers", WITHOUT_LOCKDEP)
    names = list(dict.fromkeys(config.getoption("--target")))
    if not names:
        return
    try:
        listed = inventory.load(config.getoption("--inventory") or inventory.default_path())
        config.stash[_KNOWN] = known.of_list(listed, config.getoption("--known"))
        config.stash[_FLEET] = Fleet(
            listed,
            names,
            config.getoption("--runs") or listed.runs,
            config.getoption("--resume"),
            shlex.join(["pytest", *config.invocation_params.args]),
            _speaker(config),
            dangerous=config.getoption("--dangerous"),
            night=config.getoption("--night"),
            wait_s=config.getoption("--wait"),
        )
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_SHOWN] = {}
    if config.getoption("--until-fail"):
        config.option.maxfail = 1
        config.option.count = config.getoption("--count") or MOST_TRIES
    # So that a supervisor's SIGTERM releases the hangs and stops the machines, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dut" not in metafunc.fixturenames:
        return
    fleet = metafunc.config.stash.get(_FLEET, None)
    if fleet is None:
        no_target = pytest.mark.skip(reason="no --target given")
        metafunc.parametrize("_target", [pytest.param("", marks=no_target, id="no-target")])
        return
    if (count := metafunc.config.getoption("--count")) > 1:
        # The first keeps the test's name (harness.evidence.rundir.attempt_of reads the others').
        again = [f"@{attempt}" for attempt in range(2, count + 1)]
        metafunc.fixturenames.append("_attempt")
        metafunc.parametrize("_attempt", range(count), ids=[pytest.HIDDEN_PARAM, *again])
    several = len(fleet.targets) > 1
    if "engine" not in metafunc.fixturenames:
        # With one target its name would only lengthen every test's id.
        ids = list(fleet.targets) if several else [pytest.HIDDEN_PARAM]
        metafunc.parametrize("_target", list(fleet.targets), ids=ids, scope="session")
        return
    pairs: list[Any] = []
    for name in fleet.targets:
        prefix = f"{name}-" if several else ""
        try:
            for engine in fleet.dut(name).engines():
                pairs.append(pytest.param(name, engine, id=prefix + engine.name))
        except HarnessError:
            # Collected all the same: its error is told where the test would have run.
            pairs.append(pytest.param(name, None, id=f"{prefix}unreachable"))
    metafunc.parametrize(("_target", "engine"), pairs, scope="session")


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    fleet = config.stash.get(_FLEET, None)
    if fleet is None or config.option.collectonly:
        return []
    lines = config.stash[_KNOWN].stale()
    for name in dict.fromkeys(filter(None, map(_target, items))):
        try:
            lines.append(telling.headline(fleet.dut(name)))
        except HarnessError as error:
            lines.append(f"{name}: {error.fault}: {error}")
    return lines


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    fleet = config.stash.get(_FLEET, None)
    if fleet is None:
        return
    again = [item for item in items if item.nodeid in fleet.judged(_target(item))]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]
    items[:] = masking.order(
        items,
        config.stash[_KNOWN],
        lambda item: fleet.targets.get(_target(item)),
        lambda item: item.get_closest_marker("without_lockdep") is not None,
    )


@pytest.fixture
def dut(_target: str, request: pytest.FixtureRequest) -> Dut:
    """The connected target of this test."""
    return request.config.stash[_FLEET].dut(_target)


@pytest.fixture
def window(dut: Dut, request: pytest.FixtureRequest) -> Window:
    """This test's window into the evidence, still open."""
    opened: Window = request.node.stash[_WINDOW]
    return opened


@pytest.fixture
def fences(dut: Dut, window: Window) -> Callable[[], Ledger]:
    """Asks for the account of this test's fences so far; a target without a trace is skipped."""

    def account() -> Ledger:
        found = dut.fences(window)
        if found.state == "unknown":
            raise LabError(
                f"the fences cannot be accounted for: {found.why or 'events were lost'}",
                where=dut.target.name,
                cure="raise policy.trace_buffer_kb, or see the trace's stats.jsonl",
            )
        if found.ledger is None:
            pytest.skip(f"no fence account: {found.why}")
        return found.ledger

    return account


@pytest.fixture
def storm_s(request: pytest.FixtureRequest) -> float:
    """How long a storm of jobs is to blow, in seconds."""
    seconds: float = request.config.getoption("--storm")
    return seconds


@pytest.fixture
def deep(request: pytest.FixtureRequest) -> bool:
    """Whether to take the time for what only many repetitions show."""
    return bool(request.config.getoption("--deep"))


@pytest.fixture
def pinned(dut: Dut, engine: Engine) -> Engine:
    """The engine, with jobs for it kept on its very ring."""
    dut.pin(engine)
    return engine


# -- a test's life --------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # No wrapper: what it raises must not keep pytest's own wrappers from their setup.
    dut = _dut(item)
    if dut is not None:
        _open(item, dut)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    window = item.stash.get(_WINDOW, None)
    if window is None:
        return (yield)
    began = time.monotonic()
    try:
        result = yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
        window.seconds = time.monotonic() - began
        _close(item, window, error)
        raise
    window.seconds = time.monotonic() - began
    _close(item, window, None)
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    window = item.stash.get(_WINDOW, None)
    if window is None or window.last_seq is None or window.trouble:
        return result  # what is up now is another boot
    dut = _dut(item)
    assert dut is not None
    before = item.stash[_VERDICT]
    dut.extend(window)
    judged = item.stash[_VERDICT] = verdict.record(dut.run, window, item.config.stash[_KNOWN])
    if judged.outcome in ("fail", "incomplete") and judged.outcome != before.outcome:
        dut.run.journal.add("late-finding", test=item.nodeid, reason=judged.reason)
        if judged.outcome == "incomplete":
            dut.recover()
        pytest.fail(f"after the test ended: {_told(item, dut, judged)}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The verdict decides: a finding fails a test whose body passed, skipped or xfailed."""
    made = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, HarnessError):
        # The lab's troubles are told in their own words; a traceback would only hide them.
        made.longrepr = visible(f"{error.fault}: {error}")
    window = item.stash.get(_WINDOW, None)
    if call.when == "setup" and error is not None and window is not None:
        # A fixture failed after the window was opened: its test never runs.
        _close(item, window, error)
    judged = item.stash.get(_VERDICT, None)
    dut = _dut(item) if judged else None
    if judged is None or dut is None or call.when != "call":
        return made
    made.user_properties.append(("verdict", judged.outcome))
    if judged.outcome == "incomplete" or (judged.outcome in ("fail", "error") and not made.failed):
        made.outcome, made.longrepr = "failed", _told(item, dut, judged)
        if hasattr(made, "wasxfail"):
            del made.wasxfail
    elif judged.outcome == "xfail" and judged.known:
        # As pytest's own xfail: expected, with the issue that says so.
        made.outcome, made.longrepr = "skipped", None
        made.wasxfail = visible(judged.reason)
        made.sections.append(("verdict", _told(item, dut, judged)))
    elif made.failed:
        made.sections.append(("verdict", _told(item, dut, judged)))
    return made


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    judged = dict(report.user_properties).get("verdict") if report.when == "call" else None
    if judged == "error":
        return "error", "E", "ERROR (lab)"
    if judged == "incomplete":
        return "failed", "I", "INCOMPLETE"
    if judged == "blind":
        return "blind", "b", "BLIND"
    return None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    fleet = session.config.stash.get(_FLEET, None)
    if fleet is None:
        return
    how = "interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "done"
    blind = False
    try:
        for run in fleet.runs.values():
            blind |= any(v.outcome == "blind" and not v.masked for v in report.verdicts(run))
            report.write(run)
    except HarnessError as error:
        session.config.stash[_TROUBLE] = error
    try:
        fleet.close(how)
    except HarnessError as error:
        session.config.stash.setdefault(_TROUBLE, error)
    lost = _TROUBLE in session.config.stash
    if exitstatus == 0 and (lost or (blind and not session.config.getoption("--allow-blind"))):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    fleet = config.stash.get(_FLEET, None)
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
    for name, error in fleet.broken().items():
        terminalreporter.line(visible(f"{name}: not reached: {error}"))
    if (trouble := config.stash.get(_TROUBLE, None)) is not None:
        terminalreporter.line(f"the session did not end well: {trouble}", red=True)


# -- inside -----------------------------------------------------------------------


def _target(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("_target", "")) if callspec else ""


def _dut(item: pytest.Item) -> Dut | None:
    fleet = item.config.stash.get(_FLEET, None)
    name = _target(item)
    return fleet.dut(name) if fleet and name else None


def _open(item: pytest.Item, dut: Dut) -> None:
    """Everything that must hold before a test may touch the target, then its window."""
    item.config.stash[_FLEET].check(dut.target.name)
    dut.ready()
    if dut.ailing:
        healing.heal(dut)
    if dut.unfit:
        raise LabError(dut.unfit, where=dut.target.name, cure="see journal.jsonl")
    if dut.health()["debug_locks"] == 0 and dut.target.policy.rearm == "reboot":
        free = item.get_closest_marker("without_lockdep") is not None
        if not (free and masking.masker(dut.run, dut.boot_id)[0]):
            dut.rearm()
    if item.callspec.params.get("engine", "") is None:  # type: ignore[attr-defined]
        dut.engines()  # raises again what kept them from being known when tests were collected
        raise LabError(
            "its engines became known too late", where=dut.target.name, cure="run the tests again"
        )
    destructive = item.get_closest_marker("destructive") is not None
    if destructive and (why := dut.refuse_destruction()):
        dut.run.journal.add("test-refused", test=item.nodeid, reason=why)
        pytest.skip(why)
    dut.run.journal.add("test-start", test=item.nodeid, boot=dut.boot_id)
    item.stash[_WINDOW] = dut.begin(item.nodeid, destructive=destructive)


def _close(item: pytest.Item, window: Window, error: BaseException | None) -> None:
    """End the window with what the body said, judge it, and bring the target back if it died."""
    dut = _dut(item)
    assert dut is not None
    window.body = "passed" if error is None else _said(item, error)
    if error is not None:
        window.body_text = f"{type(error).__name__}: {error}"
    if window.body == "skipped":
        window.body_text = str(error)
    if window.body == "error":
        window.lab_error = error.what if isinstance(error, HarnessError) else window.body_text
    # Whose it is now may have done all this, and it is not ours to bring back.
    lost = item.config.stash[_FLEET].lost(dut.target.name)
    dut.end(window, lost)
    judged = verdict.record(dut.run, window, item.config.stash[_KNOWN])
    item.stash[_VERDICT] = judged
    dut.run.journal.add("test-end", test=item.nodeid, outcome=judged.outcome, reason=judged.reason)
    if lost:
        return
    dut.examine(window, judged.findings)
    if judged.outcome == "incomplete" or window.trouble:
        dut.recover()


def _said(item: pytest.Item, error: BaseException) -> str:
    """What an exception out of a test's body means: skipped, xfailed, failed or error."""
    if isinstance(error, pytest.skip.Exception):
        return "skipped"
    if isinstance(error, HarnessError):
        return "error"
    if isinstance(error, pytest.xfail.Exception):
        return "xfailed"
    marker = item.get_closest_marker("xfail")
    if marker is None or (marker.args and not marker.args[0]):
        return "failed"
    expected = marker.kwargs.get("raises")
    return "xfailed" if expected is None or isinstance(error, expected) else "failed"


def _told(item: pytest.Item, dut: Dut, judged: Verdict) -> str:
    where = item.config.getoption("--inventory")
    rerun = ["pytest", item.nodeid, f"--target={dut.target.name}"]
    return telling.tell(
        judged,
        shown=item.config.stash[_SHOWN],
        last_words=dut.last_words(),
        evidence=dut.run.test(item.nodeid),
        rerun=[*rerun, *([f"--inventory={where}"] if where else [])],
    )


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
