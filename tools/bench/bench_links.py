"""The ways into a target: bulk evidence beside `ssh cat`, the harness's own time per test, boots.

The first two against one sshd on loopback; the boots on the virtual target where that is
set up, beside the same machine without any harness until its sshd answers.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.evidence.files import Stream, read_json
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.lab.reservation import Reservation
from harness.link import zipapp
from harness.link.agent import Agent
from harness.link.machine import machine_for
from harness.link.qemu import Qemu
from harness.link.ssh import Ssh
from harness.link.virtual import load_manifest
from harness.live.dut import Dut
from harness.tests.inner import Session, targets_file
from harness.tests.loopback.posing import listed, posing
from harness.tests.loopback.sshd import Sshd, why_not
from harness.verdict import judge
from tools.bench.awaited import awaited
from tools.bench.bench_agent_rate import _control_master
from tools.bench.result import Result

__all__ = ["run"]

# Seconds of a test, and how many of them were waited for its target.
Spent = tuple[float, float]

_ROUNDS = 5
_BULK = 64 << 20
_TESTS = 40
_BOOT_S = 240.0
# The wishes: a share of ssh's rate, and tests a second (50 ms each).
_WANTED_BULK = 0.8
_WANTED_TESTS = 20.0
# When each test's body ran, and how long the session had waited for its target until then.
_NOTHING = """
import json, time
import pytest
from tools.bench.awaited import awaited

@pytest.fixture(scope="session")
def told():
    lines = []
    with awaited() as waited:
        yield lambda: lines.append((time.perf_counter(), waited()))
    with open({told!r}, "w") as out:
        json.dump(lines, out)

@pytest.mark.parametrize("number", range({tests}))
def test_nothing(dut, told, number):
    told()
"""
# An agent whose kernel log is a file of our choice: what carries it is the same.
_MAIN = b"""
import sys
from agent import session
from agent.__main__ import main
from agent.collector import Collector

class File(Collector):
    def __init__(self, stream, sink, start):
        super().__init__(stream, sink, "file")
        self.start_at = start

    def collect(self):
        with open(self.start_at, "rb", buffering=0) as source:
            while True:
                piece = source.read(1 << 16)
                if not piece or not self.send(piece):
                    return

session.KmsgCollector = File
sys.exit(main())
"""


def run() -> list[Result]:
    """Raises UsageError without an sshd."""
    if reason := why_not():
        raise UsageError(reason, where="bench links", cure="install it and run this again")
    with tempfile.TemporaryDirectory(prefix="tdrlab-bench-") as name:
        folder = Path(name)
        return [*_bulk(folder), *_tests(folder), *_boots(folder)]


def _bulk(folder: Path) -> Iterator[Result]:
    """A collector's bytes into a file of the run, beside the same bytes by ssh into one."""
    data = folder / "bulk"
    data.write_bytes(os.urandom(_BULK))
    ours: list[float] = []
    theirs: list[float] = []
    with contextlib.ExitStack() as stack:
        sshd = Sshd(folder / "bulk-sshd").start()
        stack.callback(sshd.stop)
        ssh = stack.enter_context(Ssh.connect(sshd.endpoint(), Deadline(30)))
        app, _ = zipapp.build({"__main__.py": _MAIN})
        path = str(folder / "agent.pyz")
        ssh.put(app, path, 0o755, Deadline(30))
        channel = ssh.channel([sys.executable, path, "serve"])
        agent = stack.enter_context(Agent(channel, Deadline(30)))
        control = stack.enter_context(_control_master(sshd, folder))
        for number in range(_ROUNDS):
            sink = folder / f"sink{number}"
            began = time.perf_counter()
            _collect(agent, data, sink)
            ours.append(_BULK / (time.perf_counter() - began) / 1e6)
            sink.unlink()
            began = time.perf_counter()
            with sink.open("wb") as out:
                subprocess.run([*control, "cat", str(data)], stdout=out, check=True)
            theirs.append(_BULK / (time.perf_counter() - began) / 1e6)
            sink.unlink()
    beside = {"ssh -S CONTROL HOST cat FILE": statistics.median(theirs)}
    yield Result.of("links.bulk", statistics.median(ours), "MB/s", beside, _WANTED_BULK)


def _collect(agent: Agent, source: Path, sink: Path) -> None:
    whole = threading.Event()
    with Stream(sink, _BULK) as stream:

        def take(data: bytes) -> None:
            stream.write(data)
            if stream.size == _BULK:
                whole.set()

        agent.collect("kmsg", take, Deadline(30), **{"from": str(source)})
        if not whole.wait(300):
            raise LabError(f"{stream.size} of {_BULK} bytes arrived", where="bench links")
        stream.check()


def _tests(folder: Path) -> Iterator[Result]:
    """What a test costs that does nothing: its window opened, closed and judged; and all of it,
    in a session, with what pytest itself takes.  Beside each the part in which the harness only
    waits for the agent and the link, which on a host of its own is the kernel's."""
    try:
        server = posing(folder / "posing")
    except pytest.skip.Exception as reason:
        print(f"no test is timed: {reason}", file=sys.stderr)
        return
    try:
        targets = listed(folder / "targets.toml", server)
        target = inventory.load(targets).get("box")
        with _connected(target, folder / "runs") as dut:
            alone = _windows(dut)
        whole = _session(targets, folder / "session-runs")
    finally:
        server.stop()
    yield from _each("links.test", alone)
    yield from _each("links.session", whole)


def _windows(dut: Dut) -> list[Spent]:
    """Windows that are opened, closed and judged, and nothing between."""
    spent = []
    with awaited() as waited:
        for number in range(_TESTS):
            before, began = waited(), time.perf_counter()
            window = dut.begin(f"nothing[{number}]", destructive=False)
            dut.end(window)
            judge(dut.run, window)
            spent.append((time.perf_counter() - began, waited() - before))
            if window.died or window.lab_error:
                raise LabError(window.died or window.lab_error, where="bench links")
    return spent


def _each(name: str, spent: list[Spent]) -> Iterator[Result]:
    """A row of all, and one of what is the agent's and the link's."""
    # The first ones pay for imports and caches.
    for part, seconds, wanted in (
        ("", [whole for whole, _ in spent[5:]], 1.0),
        (".target", [waited for _, waited in spent[5:]], None),
    ):
        each, mean = statistics.median(seconds), statistics.mean(seconds)
        beside = {"50 ms each": _WANTED_TESTS} if wanted else {}
        found = Result.of(name + part, 1 / each, "tests/s", beside, wanted)
        yield replace(found, note=f"{each * 1000:.1f} ms each (mean {mean * 1000:.1f})")


def _session(targets: Path, runs: Path) -> list[Spent]:
    """The same from one test's body to the next one's, in a session of pytest's."""
    tests, told = targets.with_name("test_nothing.py"), targets.with_name("told.json")
    tests.write_text(_NOTHING.format(told=str(told), tests=_TESTS))
    session = Session(targets, runs, "box")
    done = session.run("-p", "harness.plugin", f"--rootdir={tests.parent}", str(tests))
    if not told.exists():
        raise LabError(f"the session did not run: {done.stdout[-500:]}", where="bench links")
    return [
        (after - before, waited - had_waited)
        for (before, had_waited), (after, waited) in pairwise(read_json(told))
    ]


def _boots(folder: Path) -> Iterator[Result]:
    """From power-on, and from a lockdep that is off, to where a test can begin."""
    try:
        manifest = load_manifest()
    except LabError as error:
        print(f"nothing is booted: {error.what}", file=sys.stderr)
        return
    listed = targets_file(folder / "sim.toml", "sim-bench")
    target = inventory.load(listed).get("sim-bench")
    bare = Qemu(target, manifest, folder / "bare", lambda data: None)
    try:
        began = time.perf_counter()
        bare.start(Deadline(_BOOT_S))
        alone = time.perf_counter() - began
    finally:
        bare.stop()
    began = time.perf_counter()
    with _connected(target, folder / "sim-runs") as dut:
        dut.begin("first", destructive=False)
        first = time.perf_counter() - began
        began = time.perf_counter()
        dut.rearm()
        dut.begin("second", destructive=False)
        again = time.perf_counter() - began
        traced = _windows(dut)
    # Of an emulated machine: what the harness takes is the difference.
    yield from (replace(row, met=None, wanted=None) for row in _each("links.sim_test", traced))
    listed.write_text(listed.read_text().replace("vm = {", "vm = { spare = true,"))
    target = inventory.load(listed).get("sim-bench")
    with _connected(target, folder / "spare-runs") as dut:
        deadline = Deadline(_BOOT_S)
        while dut.spare is not None and not dut.spare.ready and deadline.pause(0.1):
            pass
        began = time.perf_counter()
        dut.rearm()
        dut.begin("second", destructive=False)
        over = time.perf_counter() - began
    beside = {"the machine alone, until its sshd answers": 3600 / alone}
    for name, seconds in (
        ("links.power_on_to_first_test", first),
        ("links.rearm", again),
        ("links.rearm_by_spare", over),
    ):
        found = Result.of(name, 3600 / seconds, "boots/h", beside)
        yield replace(found, note=f"{seconds:.1f} s; the machine alone {alone:.1f} s")


@contextlib.contextmanager
def _connected(target: Target, runs: Path) -> Iterator[Dut]:
    runs.mkdir(parents=True, exist_ok=True)
    with Reservation.take(target.name, "lab bench links"):
        run = RunDir.create(runs, target.name)
        dut = Dut(target, run, machine_for(target), lambda line: None)
        try:
            dut.connect()
            yield dut
        finally:
            dut.close()
            run.close()
