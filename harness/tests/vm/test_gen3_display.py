"""The modelled chip's display under the real i915, by independent clients; and it is seen to go
with a GPU reset, and to come back."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.gpu.base import debugfs
from harness.live.dut import Dut
from harness.tests.vm.chip import Chip, crc_line, crcs, decoded, displayed, the_crc_line
from harness.tests.vm.guest import PATIENCE_S, sh
from harness.tests.vm.screen import MODES, connector, connector_id, modetest, rates, uevents
from harness.verdict import judge
from tools.gen3.edid import EDID

CHIP = "g33"
# What its monitor's modes have is 60 Hz.  A frame whose driver is busy lasts longer (beam.py), on a
# loaded host the more so; but not six times as long.
RATES_HZ = (10.0, 63.0)


@pytest.fixture
def chip(sim: Dut) -> Iterator[Chip]:
    """The model; after the test it has no faults."""
    chip = Chip(sim)
    yield chip
    chip.close()


# -- independent clients -----------------------------------------------------------


def test_the_monitor_describes_itself(sim: Dut, chip: Chip) -> None:
    connector_id(sim)
    told = connector(sim)
    assert (told["name"], told["status"]) == ("VGA-1", "connected")
    assert told["modes"] == ["1024x768", "800x600", "640x480"]
    path = f"/sys/class/drm/{sim.card['name']}-VGA-1/edid"
    assert b64decode(sim.call("read", path=path)["data"]) == EDID


@pytest.mark.parametrize("mode", MODES)
def test_modetest_sets_a_mode_and_flips(sim: Dut, chip: Chip, mode: str) -> None:
    output = sh(sim, modetest(sim, 10, mode, "-v"))
    assert "select timed out" not in output
    at_60_hz(output)


def test_vbltest_counts_vblanks_beside_a_picture(sim: Dut, chip: Chip) -> None:
    with displayed(sim, chip):
        before = chip.pipe()["vblanks"]
        output = sh(sim, f"sleep 10 | vbltest -M {sim.target.driver}")
        counted = chip.pipe()["vblanks"] - before
    at_60_hz(output)
    # It prints a line every 60.
    assert counted >= 60 * len(rates(output))


def test_the_crc_is_of_the_frame_that_is_dumped(sim: Dut, chip: Chip) -> None:
    seen = set()
    for pattern in ("tiles", "smpte"):
        with displayed(sim, chip, "-F", pattern):
            line = the_crc_line(sim)
            assert line == crc_line(decoded(chip.png()))
            seen.add(line)
    assert len(seen) == 2


def test_modetest_moves_a_cursor(sim: Dut, chip: Chip) -> None:
    with displayed(sim, chip, "-C"):
        chip.until(lambda state: bool(state["pipes"][0]["cursor"]), "a cursor")
        assert len(set(crcs(sim, 120))) > 1


def test_the_second_pipe_shows_a_picture_too(sim: Dut, chip: Chip) -> None:
    with displayed(sim, chip, "-v", pipe=1, mode=MODES[1]):
        state = chip.display()
        assert state["monitor"]["pipe"] == 1
        assert [pipe["running"] for pipe in state["pipes"]] == [False, True]
        picture = decoded(chip.png(1))
        assert picture.shape == (480, 640)
        assert picture.any()


def at_60_hz(output: str) -> None:
    told, (least, most) = rates(output), RATES_HZ
    assert told, output
    assert least < min(told), output
    assert max(told) < most, output


# -- the monitor -------------------------------------------------------------------


def test_plugging_is_noticed_by_its_interrupt(sim: Dut, chip: Chip) -> None:
    connector_id(sim)
    status = f"/sys/class/drm/{sim.card['name']}-VGA-1/status"
    for plugged, word in ((False, "disconnected"), (True, "connected")):
        before = len(hotplugs(sim))
        chip.plug(plugged)
        # Reading it makes the kernel look for itself nowhere: it says what was last found.
        sh(
            sim,
            f"for n in $(seq 300); do grep -qx {word} {status} && exit; sleep 0.1; done; exit 1",
        )
        # It comes over a link of its own.
        deadline = Deadline(PATIENCE_S)
        while len(hotplugs(sim)) == before:
            assert not deadline.expired(), "no uevent"
            time.sleep(0.1)


def hotplugs(sim: Dut) -> list[dict[str, str]]:
    return [e["properties"] for e in uevents(sim) if e["properties"].get("HOTPLUG") == "1"]


@pytest.mark.parametrize("edid", ["none", "garbage"])
def test_a_monitor_without_a_good_edid_still_has_modes(sim: Dut, chip: Chip, edid: str) -> None:
    # i915 keeps the EDID of a CRT that stays connected, so it is pulled out first.
    chip.plug(False)
    sh(sim, f"modetest -M {sim.target.driver} -c")
    assert connector(sim)["status"] == "disconnected"
    chip.fault("edid", edid)
    chip.plug(True)
    connector_id(sim)
    told = connector(sim)
    assert told["edid_sha256"] is None
    assert "1024x768" in told["modes"]


def test_a_frozen_vblank_is_missed_and_comes_again(sim: Dut, chip: Chip) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        display.show(output)
        assert display.vblank(30.0)
        chip.fault("vblank_frozen", "on")
        assert not display.vblank(1.0)
        chip.fault("vblank_frozen", "off")
        assert display.vblank(30.0)


# -- resets ------------------------------------------------------------------------


def test_a_reset_takes_the_picture_and_gives_it_back(sim: Dut, chip: Chip, tmp_path: Path) -> None:
    """Three PNGs to look at, in the test's directory: picture, black, picture."""
    with displayed(sim, chip):
        before, resets = chip.png(), chip.resets()
        sh(sim, f"echo 1 > {debugfs(sim.card)}/i915_wedged")
        assert chip.resets() > resets
        # It is back already: the model has kept how it was then.
        during = chip.png(at="reset")
        chip.until(lambda state: bool(state["pipes"][0]["planes"]), "the plane back")
        line = the_crc_line(sim)
        after = chip.png()
    for name, png in (("before", before), ("during", during), ("after", after)):
        (tmp_path / f"{name}.png").write_bytes(png)
    assert len(set(map(int, decoded(before).flat))) > 2
    assert not decoded(during).any()
    assert decoded(during).shape == decoded(before).shape
    assert (decoded(after) == decoded(before)).all()
    assert line == crc_line(decoded(before))


def test_flips_go_on_through_resets(sim: Dut, chip: Chip) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        display.show(output)
        for _ in range(3):
            assert not display.flips(0.5, 30.0).lost
            sh(sim, f"echo 1 > {debugfs(sim.card)}/i915_wedged")
            assert display.active()
            assert display.vblank(30.0)
        assert not display.flips(0.5, 30.0).lost


@pytest.mark.deep
def test_interrupts_stay_off_after_a_failed_reset(connected: Dut) -> None:
    """What i915 of 6.12 should not do (tools/gen3/FINDINGS.md).  The last of its module: it stays
    wedged, its interrupts off, until a reset succeeds."""
    window = connected.begin("a failed reset", destructive=True)
    display, guilty, engine = connected.display(), connected.client(), connected.engines()[0]
    display.show(display.outputs()[0])
    assert not display.flips(0.5, PATIENCE_S).lost
    connected.hasten(engine)
    chip = Chip(connected)
    chip.fault("reset_ack", "never")
    fence = guilty.wait(guilty.hang(engine), Deadline(PATIENCE_S))
    assert fence.signaled, "not even a wedged GPU ends its fences"
    after = display.flips(0.5, 15.0)
    chip.close()
    connected.end(window)

    assert after.lost, f"flips go on: {after}"
    failing = [f for f in judge(connected.run, window).findings if f.severity == "fail"]
    told = [f"{finding.kind}: {finding.title}" for finding in failing]
    assert any(line.startswith("recovery: reset-failed: i915 ") for line in told), told
    assert any("warning" in line and "i915_enable_pipestat" in line for line in told), told
    never = "commit-timeout: after a failed reset a commit is never done: flip_done timed out"
    assert never in told
