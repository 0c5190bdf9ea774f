"""A pytest plugin for inner sessions: runs each test with a fault of simgpu on, then off.

`-p harness.tests.vm.faultplugin --sim-fault=NAME ...`; which testcase meets which fault is
said in matrix.py.  Nothing outside the harness's own tests knows of these switches.
"""

from __future__ import annotations

import contextlib
from base64 import b64decode, b64encode
from collections.abc import Iterator

import pytest

from harness.errors import HarnessError
from harness.gpu.base import debugfs
from harness.live.dut import Dut
from harness.tests.vm.matrix import ENGINE, ROWS

__all__ = ["choose", "switch"]


def switch(dut: Dut, words: str = "") -> None:
    """Write `words` to the switchboard; all faults off by default.  Raises HarnessError."""
    # With a line end: a write of nothing would not reach the kernel at all.
    data = b64encode(f"{words}\n".encode()).decode()
    dut.call("write", path=f"{debugfs(dut.card)}/sim_fault", data=data)


def choose(dut: Dut, parameter: str) -> str:
    """Set a parameter of the module, "name=value"; what it was, in the same words."""
    name, _, value = parameter.partition("=")
    path = f"/sys/module/{dut.target.driver}/parameters/{name}"
    before = b64decode(dut.call("read", path=path)["data"]).decode().strip()
    dut.call("write", path=path, data=b64encode(f"{value}\n".encode()).decode())
    return f"{name}={before}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sim-fault", action="append", default=[], metavar="NAME")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.getoption("--sim-fault")
    met = [r.fault for r in ROWS if r.fault in chosen and r.testcase == metafunc.definition.nodeid]
    pairs = [(fault, state) for fault in met for state in ("on", "off")]
    if pairs:
        ids = ["-".join(pair) for pair in pairs]
        metafunc.parametrize("sim_fault", pairs, ids=ids, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One engine is enough."""
    others = [item for item in items if _engine(item) not in ("", ENGINE)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def _engine(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    engine = callspec.params.get("engine") if callspec else None
    return engine.name if engine is not None else ""


@pytest.fixture(autouse=True)
def sim_fault(request: pytest.FixtureRequest, dut: Dut) -> Iterator[None]:
    """The fault is there for the test's body alone."""
    name, state = getattr(request, "param", ("", "off"))
    parameter = next((row.parameter for row in ROWS if row.fault == name), "")
    before = ""
    if state == "on" and parameter:
        before = choose(dut, parameter)
    elif state == "on":
        switch(dut, name)
    yield
    # Where that fails the machine is dead, and its next boot has no fault.
    with contextlib.suppress(HarnessError):
        switch(dut)
    with contextlib.suppress(HarnessError):
        if before:
            choose(dut, before)
