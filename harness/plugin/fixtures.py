"""Fixtures: what a testcase may ask for.

`engine` is made by selection: it is a parameter, one for each engine of the target.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.errors import LabError
from harness.evidence.rundir import Window
from harness.fence.ledger import Ledger
from harness.gpu.base import Engine
from harness.live.dut import Dut
from harness.plugin.stash import FLEET, WINDOW

__all__ = ["deep", "dut", "fences", "pinned", "storm_s", "window"]


@pytest.fixture
def dut(_target: str, request: pytest.FixtureRequest) -> Dut:
    """The connected target of this test."""
    return request.config.stash[FLEET].dut(_target)


@pytest.fixture
def window(dut: Dut, request: pytest.FixtureRequest) -> Window:
    """This test's window into the evidence, still open."""
    opened: Window = request.node.stash[WINDOW]
    return opened


@pytest.fixture
def fences(dut: Dut, window: Window) -> Callable[[], Ledger]:
    """Asks for the account of this test's fences so far; a target without a trace is skipped."""

    def account() -> Ledger:
        found = dut.fences(window)
        if found.state == "unknown":
            raise LabError(
                f"the fences cannot be accounted for: {found.why or 'events were lost'}",
                where=dut.target.name,
                cure="raise policy.trace_buffer_kb, or see the trace's stats.jsonl",
            )
        if found.ledger is None:
            pytest.skip(f"no fence account: {found.why}")
        return found.ledger

    return account


@pytest.fixture
def storm_s(request: pytest.FixtureRequest) -> float:
    """How long a storm of jobs is to blow, in seconds."""
    seconds: float = request.config.getoption("--storm")
    return seconds


@pytest.fixture
def deep(request: pytest.FixtureRequest) -> bool:
    """Whether to take the time for what only many repetitions show."""
    return bool(request.config.getoption("--deep"))


@pytest.fixture
def pinned(dut: Dut, engine: Engine) -> Engine:
    """The engine, with jobs for it kept on its very ring."""
    dut.pin(engine)
    return engine
