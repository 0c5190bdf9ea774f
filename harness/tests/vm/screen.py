"""A virtual target's display as tests see it: what is shown, its CRCs, who shows it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from harness.deadline import Deadline
from harness.gpu.base import debugfs
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S, agent_file, put, run, sh

__all__ = [
    "MODES",
    "WRITTEN",
    "Frame",
    "clobbering_reset",
    "connector",
    "connector_id",
    "crc_lines",
    "crtc_id",
    "flipper",
    "frames",
    "modetest",
    "picture",
    "rates",
    "shown",
    "the_crc",
    "told",
    "uevents",
    "wedged",
]

MODES = ("1024x768", "640x480")
WRITTEN = "/run/lab-picture.txt"
VICTIMS = Path(__file__).parent / "victims"


@dataclass(frozen=True)
class Frame:
    """One line of the CRC file: number of the frame, CRC of what was visible."""

    number: int
    crc: int


def connector(sim: Dut) -> dict[str, Any]:
    """The card's only connector, as the agent tells it now."""
    (card,) = sim.call("cards")["cards"]
    (found,) = card["connectors"]
    assert isinstance(found, dict)
    return found


def connector_id(sim: Dut) -> str:
    """Its KMS number; which also makes the kernel read the monitor."""
    table = sh(sim, f"modetest -M {sim.target.driver} -c")
    found = re.search(r"^(\d+)\s+\d+\s+connected\s", table, re.MULTILINE)
    assert found is not None, table
    return found[1]


def crtc_id(sim: Dut, pipe: int) -> str:
    """The KMS number of a CRTC."""
    table = sh(sim, f"modetest -M {sim.target.driver} -p").split("CRTCs:", 1)[1]
    rows = [line.split() for line in table.split("Planes:", 1)[0].splitlines()]
    numbers = [row[0] for row in rows if len(row) > 3 and row[0].isdigit() and "(" in row[2]]
    return numbers[pipe]


def modetest(sim: Dut, seconds: float, mode: str, *args: str, pipe: int | None = None) -> str:
    """A shell command that shows a picture; modetest ends with its standard input.

    Without a `pipe` it takes the one that the connector had last.
    """
    crtc = "" if pipe is None else f"@{crtc_id(sim, pipe)}"
    shows = f"{connector_id(sim)}{crtc}:{mode}"
    words = ("modetest", "-M", sim.target.driver, "-s", shows, *args)
    return f"sleep {seconds} | {' '.join(words)}"


def rates(output: str) -> list[float]:
    """The flips or vblanks a second that libdrm's tests print, every 60 of them."""
    return [float(rate) for rate in re.findall(r"^freq: ([0-9.]+)Hz$", output, re.MULTILINE)]


def clobbering_reset(sim: Dut) -> None:
    """What a person asks for by debugfs."""
    sim.reset_gpu(Deadline(PATIENCE_S))


@contextmanager
def shown(sim: Dut, *args: str, mode: str = MODES[0], pipe: int | None = None) -> Iterator[None]:
    """Another process, which has the display to itself, is told to show something."""
    command = modetest(sim, 600, mode, *args, pipe=pipe)
    # A session of its own, hence a process group that one kill reaches.
    group = sh(sim, f"setsid sh -c '{command}' > {WRITTEN} 2>&1 & echo $!").strip()
    try:
        yield
    finally:
        sh(sim, f"kill -- -{group}; while kill -0 -- -{group} 2> /dev/null; do sleep 0.1; done")


@contextmanager
def picture(sim: Dut, *args: str, mode: str = MODES[0]) -> Iterator[None]:
    """`shown`, once frames of it come whose CRCs are computed."""
    with shown(sim, *args, mode=mode):
        frame = f"timeout 60 dd if={debugfs(sim.card)}/crtc-0/crc/data of=/dev/null bs=64 count=1"
        ready = f"grep -q active=1 {debugfs(sim.card)}/state && {frame} 2> /dev/null"
        sh(sim, f"for n in $(seq 300); do {ready} && exit; sleep 0.1; done; cat {WRITTEN}; exit 1")
        # The first frames of a mode are black, until its commit has come to the plane.
        width, height = map(int, mode.split("x"))
        black, deadline = crc32(bytes(4 * width * height)), Deadline(PATIENCE_S)
        while frames(sim, 1)[0].crc == black:
            assert not deadline.expired(), sh(sim, f"cat {WRITTEN}")
        yield


def crc_lines(sim: Dut, count: int = 4) -> list[str]:
    """The next `count` lines of the CRC file: number of the frame, CRCs of what was visible."""
    crc = f"{debugfs(sim.card)}/crtc-0/crc"
    # One read, one frame.
    read = f"timeout 60 dd if={crc}/data bs=512 count={count} status=none"
    # The kernel ends each line with a NUL, after its line feed.
    return sh(sim, f"echo auto > {crc}/control; {read}").replace("\0", "").splitlines()


def frames(sim: Dut, count: int = 4) -> list[Frame]:
    """The same where a frame has one CRC."""
    lines = (line.split() for line in crc_lines(sim, count))
    return [Frame(int(number, 16), int(value, 16)) for number, value in lines]


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


def told(sim: Dut, before: int, count: int) -> list[dict[str, str]]:
    """What `wedged` gives after the first `before`, once there are `count` of them."""
    deadline = Deadline(PATIENCE_S)
    while len(wedged(sim)) < before + count:
        assert not deadline.expired(), "no uevent"
        time.sleep(0.1)
    return wedged(sim)[before:]


def flipper(sim: Dut, *words: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Run victims/flipper.py there; what it says."""
    for name in ("kms.py", "flipper.py"):
        put(sim, f"/run/lab/{name}", (VICTIMS / name).read_text())
    nodes = (sim.card["render"], sim.card["primary"], debugfs(sim.card))
    program = ("python3", "/run/lab/flipper.py", agent_file(sim), *map(str, nodes))
    status, output = run(sim, *program, *words, patience_s=patience_s)
    assert status == 0, output
    result = json.loads(output)
    assert isinstance(result, dict)
    return result
