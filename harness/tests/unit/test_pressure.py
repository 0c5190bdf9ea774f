"""Memory pressure: what is turned, read and dropped, and that it ends whatever happens."""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.gpu.base import Knob
from harness.link.agent import Agent
from harness.live.generic import Generic
from harness.live.pressure import Pressure

__all__: list[str] = []

FREE_KIB = 1_000_000


class Machine:
    """An agent and a reader in one: reading takes free memory, of which the kernel keeps what was
    asked for only if it `reclaims`."""

    def __init__(self, *, reclaims: bool) -> None:
        self.free, self.kept, self._reclaims = FREE_KIB, 0, reclaims
        self.written: list[tuple[str, str]] = []
        self.over = threading.Event()

    def call(self, op: str, deadline: Deadline, **args: Any) -> dict[str, Any]:
        if op == "knob":
            assert args["path"] == "/proc/sys/vm/min_free_kbytes"
            self.kept = int(args["value"])
        elif op == "write":
            self.written.append((args["path"], b64decode(args["data"]).decode()))
        elif self._reclaims:
            self.free = max(self.free, int(1.4 * self.kept))
        text = f"MemTotal: 2000000 kB\nMemFree: {self.free} kB\n"
        return {"data": b64encode(text.encode()).decode()}

    def churn(self, size: int, deadline: Deadline, *, endless: bool) -> int:
        if endless:
            assert self.over.wait(60.0)
        else:
            self.free -= size >> 10
        return size

    def settle(self) -> None:
        self.over.set()


def on(machine: Machine) -> Pressure:
    return Pressure(cast(Agent, machine), cast(Generic, machine))


def test_the_kernel_reclaims_and_somebody_reads_until_the_end() -> None:
    machine = Machine(reclaims=True)
    with on(machine) as pressure:
        assert 0.6 * FREE_KIB < machine.kept < FREE_KIB
        assert not machine.over.is_set()
        pressure.drop(None, Knob("/the/driver's", "0x23"))
    assert machine.over.is_set()
    assert machine.written == [("/the/driver's", "0x23\n"), ("/proc/sys/vm/drop_caches", "3\n")]


def test_without_reclaim_there_is_no_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.live.pressure._LIMIT_S", 0.05)
    monkeypatch.setattr("harness.live.pressure._LOOK_S", 0.01)
    with pytest.raises(TargetError, match="nothing is reclaimed"), on(Machine(reclaims=False)):
        raise AssertionError("the block is not to run")


def test_the_reader_is_let_go_when_the_block_fails() -> None:
    machine = Machine(reclaims=True)
    with pytest.raises(ZeroDivisionError), on(machine):
        raise ZeroDivisionError
    assert machine.over.is_set()
