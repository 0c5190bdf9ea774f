"""Back ends: engines, recipes and expectations, from what a driver told."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness.agent.workload.amdgpu_packets import RECIPES
from harness.errors import UsageError
from harness.gpu import backend_for
from harness.gpu.base import Engine

NAVI: dict[str, Any] = {"name": "card1", "module": {"parameters": {"lockup_timeout": ""}}}
DISCOVERED = [
    {"name": "gfx", "rings": [0], "available_rings": 1},
    {"name": "compute", "rings": [0, 1, 2, 3], "available_rings": 0xFF},
    {"name": "sdma", "rings": [0, 1], "available_rings": 3},
]


def with_timeout(value: str) -> dict[str, Any]:
    return {**NAVI, "module": {"parameters": {"lockup_timeout": value}}}


def test_every_hardware_ring_is_an_engine_and_can_be_pinned() -> None:
    engines = {e.name: e for e in backend_for("amdgpu").engines(DISCOVERED, NAVI)}
    assert list(engines) == ["gfx", *(f"compute{n}" for n in range(8)), "sdma0", "sdma1"]
    assert engines["gfx"].pins == ()
    (pin,) = engines["compute6"].pins
    assert pin.path == "/sys/kernel/debug/dri/1/amdgpu_compute_sched_mask"
    assert int(pin.value, 16) == 1 << 6
    # Eight rings, but a job may only name one of its context's four entities.
    assert engines["compute6"].ring == 2


def test_recipes_are_the_agents_own() -> None:
    for name in ("gfx", "compute", "sdma"):
        recipes = backend_for("amdgpu").recipes(Engine(name, name, 0))
        assert recipes
        assert all(name in RECIPES[recipe].engines for recipe in recipes)
        assert RECIPES[recipes[0]].releasable, "the safest first"


@pytest.mark.parametrize(
    ("value", "gfx", "compute", "sdma"),
    [
        ("", 10, 60, 10),
        ("2000", 2, None, None),
        ("2000,3000,4000,5000", 2, 3, 4),
        ("0,0,0,0", 10, 60, 10),
        ("-1", None, None, None),
        ("nonsense", None, None, None),
    ],
)
def test_timeouts(value: str, gfx: float, compute: float, sdma: float) -> None:
    backend, card = backend_for("amdgpu"), with_timeout(value)
    got = [backend.timeout_s(Engine(ip, ip, 0), card) for ip in ("gfx", "compute", "sdma")]
    assert got == [gfx, compute, sdma]


@pytest.mark.parametrize(
    ("device", "refused"),
    [
        ({"family": 110}, True),
        ({"family": 142, "external_rev": 0x01}, True),
        ({"family": 142, "external_rev": 0x91}, False),
        ({"family": 143, "external_rev": 1}, False),
    ],
)
def test_asics_without_reset_are_refused(device: dict[str, int], refused: bool) -> None:
    assert bool(backend_for("amdgpu").refusal(device)) is refused


def test_errors_of_a_hang_are_the_kernels() -> None:
    assert backend_for("amdgpu").hang_errors() == {-errno.ETIME, -errno.ECANCELED, -errno.ENODATA}


def test_driver_without_a_back_end_is_told() -> None:
    with pytest.raises(UsageError, match="i915"):
        backend_for("i915")
