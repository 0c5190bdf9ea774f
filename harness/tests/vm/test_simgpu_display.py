"""simgpu's display: independent clients run on it, and it comes back after every reset."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zlib import crc32

import pytest

from harness import inventory
from harness.deadline import Deadline
from harness.dut import Dut
from harness.errors import TargetError
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.link.machine import machine_for
from harness.tests.inner import targets_file
from harness.tests.vm.test_simgpu import PATIENCE_S, engine_of, nodes, run, sh

NAME = "sim-display"
MODES = ("1024x768", "640x480")
SCOPE = "/sys/module/amdgpu/parameters/sim_reset_scope"
# What DRM says when it stopped waiting for a vblank.
LATE = "flip_done timed out|commit wait timed out|vblank wait timed out"
WRITTEN = "/run/lab-picture.txt"


@dataclass(frozen=True)
class Frame:
    """One line of the CRC file: number of the frame, CRC of what was visible."""

    number: int
    crc: int


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dut]:
    directory = tmp_path_factory.mktemp("simdisplay")
    target = inventory.load(targets_file(directory / "targets.toml", NAME)).get(NAME)
    with Reservation.take(NAME, "test_simgpu_display.py"):
        dut = Dut(target, RunDir.create(directory / "runs", NAME), machine_for(target), print)
        try:
            dut.connect()
            yield dut
        finally:
            dut.close()


@pytest.fixture
def sim(connected: Dut, request: pytest.FixtureRequest) -> Iterator[Dut]:
    """The target for one test: then lockdep is still armed, and no commit gave up waiting."""
    window = connected.begin(request.node.name, destructive=True)
    assert window.health_before["debug_locks"] == 1
    yield connected
    connected.end(window)
    assert (window.died, window.lab_error) == ("", "")
    assert window.health_after["debug_locks"] == 1, sh(connected, "dmesg | tail -n 150")
    assert sh(connected, f"dmesg | grep -E '{LATE}' || true") == ""


def connector(sim: Dut) -> dict[str, Any]:
    """The card's only connector, as the agent tells it now."""
    (card,) = sim.call("cards")["cards"]
    (found,) = card["connectors"]
    assert isinstance(found, dict)
    return found


def connector_id(sim: Dut) -> str:
    """Its KMS number; which also makes the kernel read the monitor."""
    table = sh(sim, "modetest -M amdgpu -c")
    found = re.search(r"^(\d+)\s+\d+\s+connected\s", table, re.MULTILINE)
    assert found is not None, table
    return found[1]


def modetest(sim: Dut, seconds: float, mode: str, *args: str) -> str:
    """A shell command that shows a picture; modetest ends with its standard input."""
    words = ("modetest", "-M", "amdgpu", "-s", f"{connector_id(sim)}:{mode}", *args)
    return f"sleep {seconds} | {' '.join(words)}"


def rates(output: str) -> list[float]:
    """The flips or vblanks a second that libdrm's tests print, every 60 of them."""
    return [float(rate) for rate in re.findall(r"^freq: ([0-9.]+)Hz$", output, re.MULTILINE)]


def clobbering_reset(sim: Dut) -> None:
    sim.reset_gpu(Deadline(PATIENCE_S))


@contextmanager
def picture(sim: Dut, *args: str, mode: str = MODES[0]) -> Iterator[None]:
    """Something is shown, by another process, which has the display to itself."""
    command = modetest(sim, 600, mode, *args)
    # A session of its own, hence a process group that one kill reaches.
    group = sh(sim, f"setsid sh -c '{command}' > {WRITTEN} 2>&1 & echo $!").strip()
    try:
        shown = f"timeout 60 dd if={debugfs(sim)}/crtc-0/crc/data of=/dev/null bs=64 count=1"
        ready = f"grep -q active=1 {debugfs(sim)}/state && {shown} 2> /dev/null"
        sh(sim, f"for n in $(seq 300); do {ready} && exit; sleep 0.1; done; cat {WRITTEN}; exit 1")
        # The first frames of a mode are black, until its commit has come to the plane.
        width, height = map(int, mode.split("x"))
        black, deadline = crc32(bytes(4 * width * height)), Deadline(PATIENCE_S)
        while frames(sim, 1)[0].crc == black:
            assert not deadline.expired(), sh(sim, f"cat {WRITTEN}")
        yield
    finally:
        sh(sim, f"kill -- -{group}; while kill -0 -- -{group} 2> /dev/null; do sleep 0.1; done")


def debugfs(sim: Dut) -> str:
    return f"/sys/kernel/debug/dri/{sim.card['name'].removeprefix('card')}"


def frames(sim: Dut, count: int = 4) -> list[Frame]:
    """The next `count` frames whose CRC was computed."""
    crc = f"{debugfs(sim)}/crtc-0/crc"
    # One read, one frame.
    read = f"timeout 60 dd if={crc}/data bs=64 count={count} status=none"
    lines = sh(sim, f"echo auto > {crc}/control; {read}")
    # The kernel ends each line with a NUL, after its line feed.
    lines = lines.replace("\0", "")
    return [
        Frame(int(number, 16), int(value, 16))
        for number, value in (line.split() for line in lines.splitlines())
    ]


def the_crc(sim: Dut) -> int:
    """Of a picture that stands still."""
    (value,) = {frame.crc for frame in frames(sim)}
    return value


def uevents(sim: Dut) -> list[dict[str, Any]]:
    """Every whole line of the boot's uevents so far."""
    text = (sim.run.boot(sim.boot_id) / "uevents.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wedged(sim: Dut) -> list[dict[str, str]]:
    """Properties of the uevents that tell of a reset."""
    return [event["properties"] for event in uevents(sim) if "WEDGED" in event["properties"]]


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
