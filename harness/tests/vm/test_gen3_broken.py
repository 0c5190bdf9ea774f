"""An i915 that was broken on purpose is caught by the testcase that should, for the right reason.

Each is the lab's i915 with a small patch (broken/*.patch), on the modelled G33.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.inner import Session
from harness.tests.vm.broken.build import absent, install, variant

MODULE = "drivers/gpu/drm/i915/i915"
HANG = "testcases/test_hang.py::test_recovers"
DISPLAY = "testcases/test_display.py::test_picture_and_flips_survive_a_hang"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A virtual gen3 box; `patched` gives it its driver."""
    if reason := absent():
        pytest.skip(reason)
    targets = tmp_path / "targets.toml"
    targets.write_text(
        "[targets.sim-broken]\n"
        'driver = "i915"\n'
        "destructive = true\n"
        'vm = { chip = "g33" }\n'
        "limits = { boot_s = 400, tdr_s = 60, command_s = 90 }\n"
    )
    return Session(targets, tmp_path / "runs", "sim-broken")


def patched(session: Session, monkeypatch: pytest.MonkeyPatch, *patches: str) -> None:
    """Let `session` boot with an i915 that has `patches`."""
    home = session.targets.parent / "cache"
    install(variant(MODULE, list(patches)), home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))


def test_mode_that_is_lost_over_a_reset_is_missed(
    broken: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(broken, monkeypatch, "reset-loses-mode.patch")
    done = broken.run(DISPLAY)
    assert done.returncode == 1, done.stdout
    (verdict,) = broken.verdicts().values()
    assert (verdict.outcome, verdict.lockdep) == ("fail", "armed"), done.stdout
    assert "the CRTC has no mode after the reset" in verdict.reason
    # The kernel itself noticed nothing.
    assert [f for f in verdict.findings if f.severity == "fail"] == []


def test_allocation_where_fences_are_signalled_is_named(
    broken: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(broken, monkeypatch, "reset-section.patch", "reset-allocates.patch")
    done = broken.run(HANG)
    assert done.returncode == 1, done.stdout
    (verdict,) = broken.verdicts().values()
    assert (verdict.outcome, verdict.lockdep) == ("fail", "went off"), done.stdout
    (finding,) = [f for f in verdict.findings if f.severity == "fail"]
    assert finding.kind.startswith("lockdep")
    assert "fs_reclaim" in verdict.reason
    assert "dma_fence_map" in verdict.reason
    # Who took the one within the other: the allocation, in the reset.
    assert "kmalloc" in finding.text
    assert "intel_gt_reset" in finding.text
    assert "*** DEADLOCK ***" in done.stdout


@pytest.mark.deep
def test_section_alone_breaks_nothing(broken: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(broken, monkeypatch, "reset-section.patch")
    done = broken.run(HANG, DISPLAY)
    assert done.returncode == 0, done.stdout
    verdicts = broken.verdicts()
    assert len(verdicts) == 2
    assert {(v.outcome, v.lockdep) for v in verdicts.values()} == {("pass", "armed")}
