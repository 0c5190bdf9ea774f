"""simgpu shares memory and fences: with vgem by PRIME, with its process by userptr."""

from __future__ import annotations

import pytest

from harness.live.dut import Dut
from harness.tests.vm.clients.run import run_client
from harness.tests.vm.guest import PATIENCE_S, engine_of, sh


@pytest.fixture(scope="module")
def vgem(connected: Dut) -> str:
    """vgem's primary node."""
    sh(connected, "modprobe vgem; udevadm settle")
    cards = connected.call("cards")["cards"]
    (found,) = [card for card in cards if card["name"] != connected.card["name"]]
    return str(found["primary"])


def scenario(sim: Dut, name: str, *nodes: str) -> None:
    status, output = run_client(
        sim, "sharing", name, sim.card["render"], *nodes, seconds=PATIENCE_S
    )
    assert status == 0, output


def test_the_gpu_writes_into_vgems_buffer_when_its_fence_allows(sim: Dut, vgem: str) -> None:
    scenario(sim, "imports", vgem)


def test_vgem_sees_the_gpus_buffer_and_the_fence_of_a_hang(sim: Dut, vgem: str) -> None:
    scenario(sim, "exports", vgem)


def test_the_gpu_writes_into_a_processs_own_memory(sim: Dut) -> None:
    scenario(sim, "own_memory")


def test_bad_userptrs_are_refused(sim: Dut) -> None:
    scenario(sim, "bad_userptr")


def test_unmapping_waits_for_a_hang_and_recovery_ends_it(sim: Dut) -> None:
    scenario(sim, "beside_a_hang")


def test_a_process_dies_with_a_hang_on_its_memory(sim: Dut) -> None:
    status, output = run_client(
        sim, "sharing", "dies_beside_a_hang", sim.card["render"], seconds=PATIENCE_S
    )
    assert status is None, output
    with sim.client() as client:
        assert client.canary(engine_of(sim, "gfx")).ok
