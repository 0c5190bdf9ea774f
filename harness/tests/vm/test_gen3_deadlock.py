"""What i915 of 6.12 does that it should not, found on the modelled chip by evidence alone.

A commit that waits for a hung job holds the display reset up; and after a reset that failed
the display's interrupts stay off.  See tools/gen3/FINDINGS.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from harness.deadline import Deadline
from harness.evidence.files import read_json
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir, Window
from harness.fence.trace import Trace
from harness.kernel import resets
from harness.live.dut import Dut
from harness.tests.inner import Session, targets_file
from harness.tests.vm.chip import Chip
from harness.tests.vm.guest import PATIENCE_S
from harness.verdict import Verdict, judge, rejudge, slice_of

CHIP = "g33"
TESTCASES = "testcases/test_deadlock.py"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Verdict]]:
    """The testcases of the deadlock, run once as a user would."""
    directory = tmp_path_factory.mktemp("deadlock")
    targets = targets_file(directory / "targets.toml", "sim-deadlock", chip=CHIP)
    session = Session(targets, directory / "runs", "sim-deadlock")
    done = session.run(TESTCASES)
    assert session.run_dirs(), done.stdout
    verdicts = session.verdicts()
    # That lockdep says nothing of it (FINDINGS.md) is worth something only while it was on.
    assert {v.lockdep for v in verdicts.values()} == {"armed"}, done.stdout
    return session.run_dirs()[-1], verdicts


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


def test_a_replay_finds_the_same(night: tuple[RunDir, dict[str, Verdict]]) -> None:
    run, verdicts = night
    again = {verdict.test.rpartition("::")[2]: verdict for verdict in rejudge(run)}
    assert {name: deadlocks(v) for name, v in again.items()} == {
        name: deadlocks(v) for name, v in verdicts.items()
    }


@pytest.fixture
def chip(connected: Dut) -> Iterator[Chip]:
    """The model; after the test it has no faults."""
    chip = Chip(connected)
    yield chip
    chip.close()


def test_interrupts_stay_off_after_a_failed_reset(connected: Dut, chip: Chip) -> None:
    """The last of its module: i915 stays wedged, its interrupts off, until a reset succeeds."""
    window = connected.begin("a failed reset", destructive=True)
    display, guilty, engine = connected.display(), connected.client(), connected.engines()[0]
    display.show(display.outputs()[0])
    assert not display.flips(0.5, PATIENCE_S).lost
    connected.hasten(engine)
    chip.fault("reset_ack", "never")
    fence = guilty.wait(guilty.hang(engine), Deadline(PATIENCE_S))
    assert fence.signaled, "not even a wedged GPU ends its fences"
    after = display.flips(0.5, 15.0)
    connected.end(window)

    assert after.lost, f"flips go on: {after}"
    failing = [f for f in judge(connected.run, window).findings if f.severity == "fail"]
    told = [f"{finding.kind}: {finding.title}" for finding in failing]
    assert any(line.startswith("recovery: reset-failed: i915 ") for line in told), told
    assert any("warning" in line and "i915_enable_pipestat" in line for line in told), told
    never = "commit-timeout: after a failed reset a commit is never done: flip_done timed out"
    assert never in told
