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
        engine = Engine(name, name, 0)
        recipes = backend_for("amdgpu").recipes(engine)
        dangerous = backend_for("amdgpu").dangerous(engine)
        assert not set(recipes) & set(dangerous)
        assert all(name in RECIPES[recipe].engines for recipe in dangerous)
        every = {recipe for recipe, how in RECIPES.items() if name in how.engines}
        assert every == {*recipes, *dangerous}, "what can be built is offered"
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
    assert backend_for("i915").hang_errors() == {-errno.EIO, -errno.EAGAIN, -errno.EINTR}


def test_driver_without_a_back_end_is_told() -> None:
    with pytest.raises(UsageError, match="nouveau"):
        backend_for("nouveau")


G33 = {"name": "card0", "engines": {"rcs0": {"heartbeat_interval_ms": "2500"}}}
GEN3 = [{"name": "rcs0", "class": 0, "instance": 0, "recipes": ["spin", "invalid"]}]
GEN12 = [
    {"name": name, "class": kind, "instance": 0, "recipes": ["spin_nopre", "spin", "invalid"]}
    for kind, name in enumerate(("rcs0", "bcs0"))
]


def test_i915_offers_what_hangs() -> None:
    backend = backend_for("i915")
    (rcs,) = backend.engines(GEN3, G33)
    assert (rcs.name, rcs.ip, rcs.ring, rcs.logged) == ("rcs0", "rcs0", 0, "rcs0")
    assert backend.recipes(rcs) == ["spin", "invalid"]
    later = backend.engines(GEN12, G33)
    # A spinner that makes way for heartbeats is no hang.
    assert [backend.recipes(engine) for engine in later] == [["spin_nopre", "invalid"]] * 2


@pytest.mark.parametrize(("interval", "seconds"), [("2500", 2.5), ("0", None), ("", None)])
def test_i915_hangs_last_a_heartbeat_at_least(interval: str, seconds: float | None) -> None:
    backend = backend_for("i915")
    (rcs,) = backend.engines(GEN3, G33)
    card = {**G33, "engines": {"rcs0": {"heartbeat_interval_ms": interval}}}
    assert backend.timeout_s(rcs, card) == seconds
    assert backend.timeout_s(rcs, {"name": "card0"}) is None
    assert backend.haste(rcs, {"name": "card0"}) == ()
    (knob,) = backend.haste(rcs, G33)
    assert knob.path == "/sys/class/drm/card0/engine/rcs0/heartbeat_interval_ms"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ({"generation": 2, "gpu_reset": 0}, "generation 2 has no GPU reset"),
        ({"generation": 3, "gpu_reset": 0}, "GPU reset is off"),
        ({"generation": 3, "gpu_reset": 1}, ""),
    ],
)
def test_i915_without_reset_is_refused(device: dict[str, int], said: str) -> None:
    refusal = backend_for("i915").refusal(device)
    assert said in refusal
    assert bool(refusal) == bool(said)


def test_i915_is_reset_by_a_mask_that_all_kernels_read() -> None:
    manual = backend_for("i915").manual_reset(G33)
    assert manual is not None
    assert manual.path == "/sys/kernel/debug/dri/0/i915_wedged"
    assert int(manual.data or "", 0) == 0xFFFFFFFF
