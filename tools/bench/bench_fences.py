"""Fences a second with the trace on, beside the same with it off, on a virtual target.

Two storms: sw_sync alone, and jobs of simgpu as a client submits them. Then a
minute of the first, in which nothing may be lost at the default buffer.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.evidence.boot import Boot
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.lab.reservation import Reservation
from harness.link.machine import machine_for
from harness.live.dut import Dut
from harness.live.recorder import Recorder
from tools.bench.result import Result

__all__ = ["run"]

_SOURCE = Path(__file__).with_name("fence_storm.c")
_ON_TARGET = "/var/tmp/fence-storm"
_ROUNDS = 8
_ROUND_S = 3.0
_LONG_S = 60.0
# Under emulation; of the rate that the target has without the trace.
_WANTED = 0.75
_UNIT = "fences/s"


def run() -> list[Result]:
    """The best of rounds in turn, in one boot: what else a machine does can only slow one down.

    Raises UsageError without a virtual target.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tdrlab-bench-")))
        storm = _compile(folder)
        dut = stack.enter_context(_connected(_target(), folder))
        dut.at.ssh.put(storm, _ON_TARGET, 0o755, Deadline(30))
        engine = dut.engines()[0]
        client = stack.enter_context(dut.client())
        storms: dict[str, Callable[[], float]] = {
            "sw_sync": lambda: _sw_sync(dut, _ROUND_S),
            "simgpu": lambda: (
                (done := client.storm(engine, 1 << 20, Deadline(60), seconds=_ROUND_S)).completed
                / done.seconds
            ),
        }
        results = []
        for name, one in storms.items():
            one()  # the first pays for caches
            off, on = [], []
            for _ in range(_ROUNDS):
                off.append(one())
                with _traced(dut):
                    on.append(one())
            results.append(
                Result.of(
                    f"fences.{name}",
                    max(on),
                    _UNIT,
                    {"trace off": max(off)},
                    _WANTED,
                )
            )
        results.append(_long(dut))
    return results


def _long(dut: Dut) -> Result:
    """A storm of a minute: how many of its events came over."""
    with _traced(dut) as recorder:
        _sw_sync(dut, _LONG_S)
        if trouble := recorder.sync():
            raise LabError(trouble, where="bench fences", cure="see the target's kernel log")
        counters = dut.agent.call("trace.sync", Deadline(30))["stats"]
    kept = sum(one["read"] + one["entries"] for one in counters)
    lost = sum(one["overrun"] + one["commit_overrun"] + one["dropped"] for one in counters)
    return Result.of("fences.kept_for_60_s", kept, "events", {"recorded": kept + lost}, 1.0)


def _sw_sync(dut: Dut, seconds: float) -> float:
    done = dut.agent.call(
        "run", Deadline(seconds + 60), argv=[_ON_TARGET, str(seconds)], timeout=seconds + 50
    )
    if done["status"] != 0:
        raise LabError(
            f"the storm failed: {done['stderr'].strip()}",
            where="bench fences",
            cure="the target's kernel needs CONFIG_SW_SYNC and debugfs",
        )
    count, ns = map(int, done["stdout"].split())
    return count / ns * 1e9


@contextlib.contextmanager
def _traced(dut: Dut) -> Iterator[Recorder]:
    """With the trace on, as in a test of this target by default."""
    target = replace(dut.target, policy=inventory.Policy())
    boot = Boot(dut.run, target.policy.stream_limit)
    try:
        recorder = Recorder(target, dut.agent, boot, Deadline(30))
        if recorder.absent:
            raise LabError(recorder.absent, where="bench fences", cure="see lab doctor")
        try:
            yield recorder
        finally:
            dut.agent.call("trace.stop", Deadline(30))
            recorder.close()
    finally:
        boot.close()


def _target() -> Target:
    """The first virtual one, with the trace off."""
    for target in inventory.load(inventory.default_path()).virtual():
        return replace(target, policy=replace(target.policy, trace=False))
    raise UsageError("no virtual target", where="bench fences", cure="add one to targets.toml")


@contextlib.contextmanager
def _connected(target: Target, folder: Path) -> Iterator[Dut]:
    with Reservation.take(target.name, "lab bench fences"):
        run = RunDir.create(folder, target.name)
        dut = Dut(target, run, machine_for(target), lambda line: None)
        try:
            dut.connect()
            yield dut
        finally:
            dut.close()
            run.close()


def _compile(folder: Path) -> bytes:
    program = folder / "fence-storm"
    try:
        subprocess.run(
            ["gcc", "-O2", "-static", "-Wall", "-o", program, _SOURCE],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise UsageError("no gcc here", where="bench fences", cure="install gcc") from error
    except subprocess.CalledProcessError as error:
        raise LabError(
            f"cannot be compiled: {error.stderr}", where=str(_SOURCE), cure="install libc6-dev"
        ) from error
    return program.read_bytes()
