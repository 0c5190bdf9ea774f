"""A test's life: its window is opened and closed around it, and judged, and the verdict decides.

What a finding says of a test comes in its call phase, and after that only what its teardown did.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from harness import masking, verdict
from harness.errors import HarnessError, LabError
from harness.evidence.rundir import Window
from harness.lab import resume, telling
from harness.lab.casefile import boot_words, facts_of
from harness.lab.visible import visible
from harness.lastwords import kept
from harness.live import healing
from harness.live.dut import Dut
from harness.plugin.stash import FLEET, KNOWN, SHOWN, VERDICT, WINDOW, dut_of
from harness.verdict import Verdict

__all__ = [
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # No wrapper: what it raises must not keep pytest's own wrappers from their setup.
    dut = dut_of(item)
    if dut is not None:
        _open(item, dut)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    window = item.stash.get(WINDOW, None)
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
    window = item.stash.get(WINDOW, None)
    if window is None or window.last_seq is None or window.trouble:
        return result  # what is up now is another boot
    dut = dut_of(item)
    assert dut is not None
    if item.config.stash[FLEET].lost(dut.target.name):
        return result  # what is up now is others' doing
    before = item.stash[VERDICT]
    dut.extend(window)
    judged = verdict.record(dut.run, window, item.config.stash[KNOWN], before, dut.saved)
    item.stash[VERDICT] = judged
    if judged.lockdep != before.lockdep:
        dut.run.journal.add("lockdep-late", test=item.nodeid, lockdep=judged.lockdep)
    if judged.outcome in ("fail", "incomplete") and judged.outcome != before.outcome:
        dut.run.journal.add("late-finding", test=item.nodeid, reason=judged.reason)
        if judged.outcome == "incomplete":
            _recover(item, dut, window)
        told = _told(item, dut, item.stash[VERDICT])
        pytest.fail(f"after the test ended: {told}", pytrace=False)
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
    window = item.stash.get(WINDOW, None)
    if call.when == "setup" and error is not None and window is not None:
        # A fixture failed after the window was opened: its test never runs.
        _close(item, window, error)
    judged = item.stash.get(VERDICT, None)
    dut = dut_of(item) if judged else None
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


# -- inside -----------------------------------------------------------------------


def _open(item: pytest.Item, dut: Dut) -> None:
    """Everything that must hold before a test may touch the target, then its window."""
    item.config.stash[FLEET].check(dut.target.name)
    dut.ready()
    if dut.ailing:
        healing.heal(dut)
    if dut.unfit:
        raise LabError(dut.unfit, where=dut.target.name, cure="see journal.jsonl")
    if _disarmed(item, dut, dut.looked()):
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
    try:
        window = _begin(item, dut, destructive)
        if _disarmed(item, dut, window.health_before):  # since the last test ended
            dut.tell_between(window)
            dut.rearm()
            window = _begin(item, dut, destructive)
        item.stash[WINDOW] = window
    except HarnessError as error:
        resume.close_unopened(dut.run, item.nodeid, error.what)
        raise


def _begin(item: pytest.Item, dut: Dut, destructive: bool) -> Window:
    """The test's window, on a target that may have died since the last one was closed."""
    dut.run.journal.add("test-start", test=item.nodeid, boot=dut.boot_id)
    try:
        return dut.begin(item.nodeid, destructive=destructive)
    except HarnessError:
        if not dut.inquire():
            raise
        dut.ready()
        if dut.unfit:
            raise
    dut.run.journal.add("test-start", test=item.nodeid, boot=dut.boot_id)
    return dut.begin(item.nodeid, destructive=destructive)


def _disarmed(item: pytest.Item, dut: Dut, health: dict[str, Any]) -> bool:
    """Whether lockdep is off, and has to be armed again for this test."""
    if health["debug_locks"] != 0 or dut.target.policy.rearm != "reboot":
        return False
    free = item.get_closest_marker("without_lockdep") is not None
    return not (free and masking.masker(dut.run, dut.boot_id)[0])


def _close(item: pytest.Item, window: Window, error: BaseException | None) -> None:
    """End the window with what the body said, judge it, and bring the target back if it died."""
    dut = dut_of(item)
    assert dut is not None
    window.body = "passed" if error is None else _said(item, error)
    if error is not None:
        window.body_text = f"{type(error).__name__}: {error}"
    if window.body == "skipped":
        window.body_text = str(error)
    if window.body == "error":
        window.lab_error = error.what if isinstance(error, HarnessError) else window.body_text
    # Whose it is now may have done all this, and it is not ours to bring back.
    lost = item.config.stash[FLEET].lost(dut.target.name)
    dut.end(window, lost)
    judged = verdict.record(dut.run, window, item.config.stash[KNOWN], saved=dut.saved)
    item.stash[VERDICT] = judged
    dut.run.journal.add(
        "test-end",
        test=item.nodeid,
        outcome=judged.outcome,
        reason=judged.reason,
        lockdep=judged.lockdep,
    )
    if lost:
        return
    dut.examine(window, judged.findings)
    if judged.outcome == "incomplete" or window.trouble:
        _recover(item, dut, window)


def _recover(item: pytest.Item, dut: Dut, window: Window) -> None:
    """Bring the target back, and judge again by what it had kept of its death, if anything."""
    dut.recover()
    before = item.stash[VERDICT]
    if before.outcome == "incomplete" and any(kept(dut.run.boot(window.boot_id))):
        judged = item.stash[VERDICT] = verdict.record(dut.run, window, item.config.stash[KNOWN])
        if judged.reason != before.reason:
            dut.run.journal.add("judged-again", test=item.nodeid, reason=judged.reason)


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
    rerun = ["pytest", item.nodeid, f"--target={dut.target.name}", *boot_words(facts_of(dut.run))]
    return telling.tell(
        judged,
        shown=item.config.stash[SHOWN],
        last_words=dut.last_words(),
        evidence=dut.run.test(item.nodeid),
        rerun=[*rerun, *([f"--inventory={where}"] if where else [])],
    )
