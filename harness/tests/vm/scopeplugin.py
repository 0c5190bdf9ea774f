"""A pytest plugin for inner sessions: runs each test once for each scope of recovery.

`-p harness.tests.vm.scopeplugin`; simgpu's scope is a knob, which is put back with the test.
"""

from __future__ import annotations

import pytest

from harness.gpu.base import Knob
from harness.live.dut import Dut

__all__ = ["ALIKE", "SCOPE"]

SCOPE = "/sys/module/amdgpu/parameters/sim_reset_scope"
# The fourth, with the display, differs from a full one in what the tests of the display look at.
ALIKE = ("soft", "ring", "full")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("sim_scope", ALIKE, indirect=True)


@pytest.fixture(autouse=True)
def sim_scope(request: pytest.FixtureRequest, dut: Dut) -> None:
    """In force for the test."""
    dut.turn(Knob(SCOPE, request.param))
