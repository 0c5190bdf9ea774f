"""simgpu shares memory and fences: with vgem by PRIME, with its process by userptr."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import inventory
from harness.dut import Dut
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.link.machine import machine_for
from harness.tests.inner import targets_file
from harness.tests.vm.clients.run import run_client
from harness.tests.vm.test_simgpu import engine_of, sh
from harness.verdict import judge

NAME = "sim-sharing"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dut]:
    directory = tmp_path_factory.mktemp("simsharing")
    target = inventory.load(targets_file(directory / "targets.toml", NAME)).get(NAME)
    with Reservation.take(NAME, "test_simgpu_sharing.py"):
        dut = Dut(target, RunDir.create(directory / "runs", NAME), machine_for(target), print)
        try:
            dut.connect()
            yield dut
        finally:
            dut.close()


@pytest.fixture
def sim(connected: Dut, request: pytest.FixtureRequest) -> Iterator[Dut]:
    """The target for one test, of which the kernel has nothing to say."""
    window = connected.begin(request.node.name, destructive=True)
    assert window.health_before["debug_locks"] == 1
    yield connected
    connected.end(window)
    window.body = "passed"
    judged = judge(connected.run, window)
    assert (judged.outcome, judged.lockdep) == ("pass", "armed"), judged


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
