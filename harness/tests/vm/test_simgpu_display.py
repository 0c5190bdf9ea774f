"""simgpu's display: independent clients run on it, and it comes back after every reset."""

from __future__ import annotations

import re
import struct
import time
from base64 import b64decode
from itertools import pairwise
from zlib import crc32

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S, engine_of, nodes, run, sh
from harness.tests.vm.screen import (
    MODES,
    WRITTEN,
    clobbering_reset,
    connector,
    connector_id,
    frames,
    modetest,
    picture,
    rates,
    the_crc,
    wedged,
)

SCOPE = "/sys/module/amdgpu/parameters/sim_reset_scope"
# For one step of the harness's own client.
CLIENT_S = 30.0


# -- userspace's view --------------------------------------------------------------


def test_the_monitor_describes_itself(sim: Dut) -> None:
    connector_id(sim)
    told = connector(sim)
    assert (told["name"], told["status"], told["modes"]) == ("Virtual-1", "connected", [*MODES])
    assert told["edid_sha256"] is not None
    path = f"/sys/class/drm/{sim.card['name']}-Virtual-1/edid"
    edid = b64decode(sim.call("read", path=path)["data"])
    assert len(edid) == 128
    assert edid.startswith(b"\x00\xff\xff\xff\xff\xff\xff\x00")
    assert sum(edid) % 256 == 0


@pytest.mark.parametrize("mode", MODES)
def test_modetest_sets_a_mode_and_flips(sim: Dut, mode: str) -> None:
    output = sh(sim, modetest(sim, 10, mode, "-v"))
    assert "select timed out" not in output
    assert rates(output), output
    assert max(rates(output)) < 63, output


def test_modetest_needs_no_more_than_the_primary_nodes_group(sim: Dut) -> None:
    nobody = "setpriv --reuid=nobody --regid=nogroup --no-new-privs"
    command = modetest(sim, 10, MODES[0], "-v").partition("| ")[2]
    assert rates(sh(sim, f"sleep 10 | {nobody} --groups=video {command}"))
    status, output = run(sim, "sh", "-c", f"sleep 1 | {nobody} --clear-groups {command}")
    assert status != 0, f"the node's group does not matter: {output}"


def test_vbltest_counts_vblanks_beside_a_picture(sim: Dut) -> None:
    with picture(sim):
        output = sh(sim, "sleep 10 | vbltest -M amdgpu")
    assert rates(output), output
    assert max(rates(output)) < 63, output


def test_the_crc_is_of_what_is_shown(sim: Dut) -> None:
    def shown(pattern: str, mode: str = MODES[0]) -> int:
        with picture(sim, "-F", pattern, mode=mode):
            return the_crc(sim)

    tiles, smpte = shown("tiles"), shown("smpte")
    assert tiles != smpte
    assert shown("tiles", MODES[1]) not in (tiles, smpte)
    assert shown("tiles") == tiles


# -- resets ------------------------------------------------------------------------


def test_a_hang_leaves_no_trace_on_the_display(sim: Dut) -> None:
    with picture(sim):
        before = frames(sim)
        client = sim.client()
        hang = client.hang(engine_of(sim, "gfx"))
        assert client.wait(hang, Deadline(PATIENCE_S)).signaled
        # A first frame may still be black: time goes on before the picture is back.
        after = frames(sim, 12)
        assert after[0].number > before[-1].number
        assert all(a.number < b.number for a, b in pairwise(after))
        assert {frame.crc for frame in after[4:]} == {before[0].crc}
        assert rates(sh(sim, "sleep 10 | vbltest -M amdgpu"))


def test_flips_go_on_through_resets(sim: Dut) -> None:
    with picture(sim, "-v"):
        first = frames(sim)[0].number
        for _ in range(10):
            clobbering_reset(sim)
        assert frames(sim)[0].number > first
        lines = f"wc -l < {WRITTEN}"
        flipped = int(sh(sim, lines))
        deadline = Deadline(PATIENCE_S)
        while int(sh(sim, lines)) < flipped + 2:
            assert not deadline.expired(), sh(sim, f"cat {WRITTEN}")
            time.sleep(0.5)
        output = sh(sim, f"cat {WRITTEN}")
    assert "select timed out" not in output, output
    assert rates(output), output


def test_userspace_is_told_of_a_hang(sim: Dut) -> None:
    dump = f"/sys/class/drm/{sim.card['name']}/device/devcoredump/data"
    sh(sim, f"test ! -e {dump} || echo 1 > {dump}")
    told = len(wedged(sim))
    client = sim.client()
    assert client.wait(client.hang(engine_of(sim, "compute")), Deadline(PATIENCE_S)).signaled
    deadline = Deadline(PATIENCE_S)
    while len(wedged(sim)) == told:
        assert not deadline.expired(), "no uevent"
        time.sleep(0.1)
    (last,) = wedged(sim)[told:]
    assert last["WEDGED"] == "none"
    assert last["DEVNAME"] == sim.card["primary"]

    lines = sh(sim, f"cat {dump}").splitlines()
    assert lines[0] == "**** AMDGPU Device Coredump ****"
    assert f"kernel: {sim.facts['uname']['release']}" in lines
    assert "module: amdgpu" in lines
    (guilty,) = [line for line in lines if line.startswith("IP Type: ")]
    hung = re.fullmatch(r"IP Type: 1 Ring Name: (comp_1\.\d\.0) seq=(\d+)", guilty)
    assert hung is not None, guilty
    ring = lines[lines.index(f"ring name: {hung[1]}") :]
    ring = ring[: ring.index("")]
    assert any(line.startswith(f"job seq={hung[2]} pending process ") for line in ring), ring


def test_a_reset_may_leave_the_display_alone(sim: Dut) -> None:
    assert sh(sim, f"cat {SCOPE}") == "display\n"
    with pytest.raises(TargetError):
        sim.call("knob", path=SCOPE, value="nonsense")
    sim.call("knob", path=SCOPE, value="full")
    with picture(sim):
        before = the_crc(sim)
        clobbering_reset(sim)
        assert the_crc(sim) == before


def test_unbinding_takes_an_active_mode_down(sim: Dut) -> None:
    driver, address = "/sys/bus/pci/drivers/amdgpu", sim.card["pci"]
    before = nodes(sim)
    with picture(sim, "-v"):
        sh(sim, f"echo {address} > {driver}/unbind")
        assert nodes(sim) == []
    sh(sim, f"echo {address} > {driver}/bind")
    assert nodes(sim) == before
    with picture(sim):
        assert the_crc(sim)


# -- the harness's own client: what it says is so --------------------------------------


def crc_of_the_known_frame(width: int, height: int) -> str:
    """As simgpu computes it, of the picture that workload/kms_device.py draws from seed 1."""
    rows = (
        struct.pack("<I", (0x9E3779B1 + y * 0x010305) & 0xFFFFFF) * width for y in range(height)
    )
    return f"0x{crc32(b''.join(rows)):08x}"


def test_it_shows_a_frame_that_is_always_the_same(sim: Dut) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        assert output.mode == MODES[0]
        display.show(output)
        assert display.active()
        width, height = map(int, output.mode.split("x"))
        for _ in range(2):
            crcs = display.crcs(output, 8, CLIENT_S)
            assert crcs is not None
            assert crcs[-1] == crc_of_the_known_frame(width, height)
            flips = display.flips(1.0, CLIENT_S)
            assert not flips.lost
            assert flips.done >= 2
        assert display.vblank(CLIENT_S)


def test_only_one_is_master(sim: Dut) -> None:
    with sim.display() as display, pytest.raises(TargetError, match="cannot become DRM master"):
        sim.display()
    display.stop()
    with sim.display() as another:
        assert another.outputs()


def test_nothing_can_be_flipped_before_it_is_shown(sim: Dut) -> None:
    with sim.display() as display:
        with pytest.raises(UsageError, match="nothing is shown"):
            display.flips(0.1, 1.0)
        (output,) = display.outputs()
        with pytest.raises(UsageError, match="has no mode"):
            display.show(type(output)(output.connector + 1, 0, ""))


def test_a_pipe_that_is_off_gives_no_crc(sim: Dut) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        assert display.crcs(output, 1, 2.0) == []
        nowhere = type(output)(output.connector, output.pipe + 7, "")
        assert display.crcs(nowhere, 1, 2.0) is None
