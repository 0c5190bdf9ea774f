"""What i915 of 6.12 does that it should not, found on the modelled chip by evidence alone.

A commit that waits for a hung job holds the display reset up.  See tools/gen3/FINDINGS.md.
"""

from __future__ import annotations

import msgspec
import pytest

from harness.evidence.files import read_json
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir, Window
from harness.fence.trace import Trace
from harness.kernel import resets
from harness.tests.inner import Session
from harness.verdict import Verdict, recorded, rejudge, slice_of

TESTCASES = "testcases/test_deadlock.py"


@pytest.fixture(scope="module")
def night(gen3_night: Session) -> tuple[RunDir, dict[str, Verdict]]:
    """The testcases of the deadlock: the run, and their verdicts."""
    (run,) = gen3_night.run_dirs()
    told = {name.rpartition("::"): verdict for name, verdict in recorded(run).items()}
    verdicts = {test: verdict for (file, _, test), verdict in told.items() if file == TESTCASES}
    # That lockdep says nothing of it (FINDINGS.md) is worth something only while it was on.
    assert {v.lockdep for v in verdicts.values()} == {"armed"}, verdicts
    return run, verdicts


def deadlocks(verdict: Verdict) -> list[Finding]:
    return [finding for finding in verdict.findings if finding.kind == "deadlock"]


def held_up(finding: Finding) -> float:
    """The seconds that its title tells."""
    return float(finding.title.partition("held up ")[2].partition(" s ")[0])


def window_of(run: RunDir, test: str) -> Window:
    name = next(one for one in run.tests() if one.endswith(f"::{test}"))
    return msgspec.convert(read_json(run.test(name) / "window.json"), Window)


def logged(run: RunDir, window: Window) -> float:
    """Seconds from the hang to the reset, as the kernel log alone has it."""
    seen = resets.find(slice_of(run.path, window))
    first = {event.step: event.usec for event in reversed(seen)}
    return (first["reset-begin"] - first["hang"]) / 1e6


def traced(run: RunDir, window: Window) -> float:
    """Seconds from when the display was to be reset until that thread's last wait for a fence
    was over, from the events themselves."""
    trace = Trace.open(run.boot(window.boot_id) / window.trace_dir)
    names = ("lab:display_begin", "lab:wait_end")
    found = trace.read(names, window.trace_first, window.trace_last)
    begin, wait = (found.table(name) for name in names)
    [pid] = set(begin.pid.tolist())
    return int(wait.time[wait.pid == pid][-1] - begin.time[0]) / 1e9


@pytest.mark.parametrize("how", ["modeset", "flip"])
def test_the_display_reset_is_held_up(night: tuple[RunDir, dict[str, Verdict]], how: str) -> None:
    run, verdicts = night
    test = f"test_recovery_passes_a_waiting_{how}"
    found = deadlocks(verdicts[test])
    assert found, verdicts[test]
    assert verdicts[test].outcome == "fail"
    assert {f.title.partition(" held up ")[0] for f in found} == {"display reset"}
    told, window = sum(map(held_up, found)), window_of(run, test)
    assert told == pytest.approx(traced(run, window), rel=0.05)
    assert told < logged(run, window) < told + 5.0
    stacks = "".join(finding.text for finding in found)
    assert "intel_display_reset_prepare" in stacks
    assert "dma_fence_wait_timeout" in stacks
    assert "by its own wait" in found[-1].title
    if how == "modeset":
        assert "while holding the modeset locks" in found[0].title
        assert "drm_mode_setcrtc" in stacks
        assert "crtc_ww_class_mutex" in stacks
    else:
        assert found[0].title.endswith("behind a commit that waits for the hung job's fence")


@pytest.mark.parametrize("how", ["modeset", "flip"])
def test_nothing_is_held_up_by_a_slow_job(
    night: tuple[RunDir, dict[str, Verdict]], how: str
) -> None:
    _, verdicts = night
    verdict = verdicts[f"test_{how}_waits_for_a_slow_job"]
    assert (verdict.outcome, deadlocks(verdict)) == ("pass", [])


def test_signals_disturb_nobody(night: tuple[RunDir, dict[str, Verdict]]) -> None:
    _, verdicts = night
    verdict = verdicts["test_signals_do_not_disturb_a_waiting_modeset"]
    assert (verdict.outcome, deadlocks(verdict)) == ("pass", [])


def test_a_replay_finds_the_same(night: tuple[RunDir, dict[str, Verdict]]) -> None:
    run, verdicts = night
    again = {verdict.test.rpartition("::")[2]: verdict for verdict in rejudge(run)}
    assert {name: deadlocks(again[name]) for name in verdicts} == {
        name: deadlocks(v) for name, v in verdicts.items()
    }
