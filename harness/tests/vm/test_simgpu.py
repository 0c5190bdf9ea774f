"""simgpu is what it claims: amdgpu to userspace, drm_sched to lockdep, and quiet when healthy."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from harness.agent.workload.amdgpu_packets import RECIPES
from harness.deadline import Deadline
from harness.errors import TargetError
from harness.gpu.base import debugfs
from harness.live.dut import Dut
from harness.tests.vm.clients.run import run_client
from harness.tests.vm.faultplugin import switch
from harness.tests.vm.guest import PATIENCE_S, engine_of, nodes, run, sh
from harness.tests.vm.matrix import ROWS

STRESS = "amdgpu_stress -b v 1m -b g 1m -c 0 1 1m 20"
KINDS = ("gfx", "compute", "sdma")


def taken_while_signalling(sim: Dut) -> list[str]:
    """Classes that lockdep has seen taken inside a fence signalling section."""
    paragraph = sh(sim, "sed -n '/: dma_fence_map$/,/^$/p' /proc/lockdep")
    return [line.split("] ", 1)[1] for line in paragraph.splitlines() if line.startswith(" -> ")]


def stress_is_clean(sim: Dut, *prefix: str) -> None:
    status, output = run(sim, *prefix, *STRESS.split())
    assert status == 0, output
    assert "Submitted 20 IBs" in output


# -- userspace's view --------------------------------------------------------------


def test_libdrms_own_client_runs_as_root(sim: Dut) -> None:
    stress_is_clean(sim)


def test_libdrms_own_client_runs_with_the_render_group_alone(sim: Dut) -> None:
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--no-new-privs")
    stress_is_clean(sim, *nobody, "--groups=render")
    status, output = run(sim, *nobody, "--clear-groups", *STRESS.split())
    assert status != 0, f"the node's group does not matter: {output}"


def test_the_node_comes_back_after_unbind_and_bind(sim: Dut) -> None:
    driver, address = "/sys/bus/pci/drivers/amdgpu", sim.card["pci"]
    before = nodes(sim)
    assert before
    sh(sim, f"echo {address} > {driver}/unbind")
    assert nodes(sim) == []
    sh(sim, f"echo {address} > {driver}/bind")
    assert nodes(sim) == before
    stress_is_clean(sim)


def test_faults_are_switched_by_name_and_only_known_ones(sim: Dut) -> None:
    def on() -> dict[str, int]:
        listed = sh(sim, f"cat {debugfs(sim.card)}/sim_fault").splitlines()
        values = {line.split()[0]: int(line.split()[1]) for line in listed}
        return {name: value for name, value in values.items() if value}

    listed = sh(sim, f"cat {debugfs(sim.card)}/sim_fault").splitlines()
    switches = {row.fault for row in ROWS if not row.parameter}
    assert switches <= {line.split()[0] for line in listed}
    assert on() == {}
    for wrong in ("console", "warn=", "warn=-1", "warn oops", "warn,oops", "=1", "w" * 100):
        with pytest.raises(TargetError, match="Invalid argument"):
            switch(sim, wrong)
        assert on() == {}, f"{wrong!r} left something behind"
    try:
        switch(sim, " leak ")
        switch(sim, "fence_late=7")
        assert on() == {"leak": 1024, "fence_late": 7}
        switch(sim, "leak=0")
        assert on() == {"fence_late": 7}
    finally:
        switch(sim)
    assert on() == {}


def test_a_job_left_pending_ends_when_the_device_goes(sim: Dut) -> None:
    client = sim.client()
    switch(sim, "fence_pending")
    job = client.hang(engine_of(sim, "gfx"))
    assert not client.wait(job, Deadline(5)).signaled
    driver, address = "/sys/bus/pci/drivers/amdgpu", sim.card["pci"]
    sh(sim, f"echo {address} > {driver}/unbind")
    fence = client.wait(job, Deadline(PATIENCE_S))
    client.stop()
    sh(sim, f"echo {address} > {driver}/bind; udevadm settle")
    assert fence.error == -errno.ETIME
    stress_is_clean(sim)


# -- hangs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "recipe"), [(ip, name) for ip in KINDS for name, r in RECIPES.items() if ip in r.engines]
)
def test_every_recipe_is_a_hang_that_recovery_ends(sim: Dut, ip: str, recipe: str) -> None:
    engine = engine_of(sim, ip)
    sim.pin(engine)
    guilty, bystander = sim.client(), sim.client()
    assert bystander.canary(engine).ok
    fence = guilty.wait(guilty.hang(engine, recipe), Deadline(PATIENCE_S))
    assert fence.signaled
    assert fence.error in sim.gpu.hang_errors(), str(fence)
    after = bystander.canary(engine)
    assert after.ok, str(after)


def test_the_annotated_path_is_what_ran(sim: Dut) -> None:
    client = sim.client()
    assert client.wait(client.hang(engine_of(sim, "gfx")), Deadline(PATIENCE_S)).signaled
    assert "&sched->job_list_lock" in taken_while_signalling(sim)


def test_guilty_and_innocent_contexts_are_told_apart(sim: Dut) -> None:
    gfx, compute = engine_of(sim, "gfx"), engine_of(sim, "compute")
    client = sim.client()
    guilty, idle, beside = client.context(), client.context(), client.context()
    assert client.reset_state(idle) == frozenset()
    # The first to time out is guilty; what runs on other rings is lost with it.
    first = client.hang(gfx, context=guilty)
    second = client.hang(compute, context=beside)
    errors = [client.wait(job, Deadline(PATIENCE_S)).error for job in (first, second)]
    assert errors == [-errno.ETIME, -errno.ECANCELED]

    assert client.reset_state(guilty) == {"reset", "guilty"}
    assert client.reset_state(beside) == {"reset"}
    assert client.reset_state(idle) == {"reset"}
    assert client.reset_state(client.context()) == frozenset()

    refused = client.canary(gfx, guilty)
    assert (refused.ok, refused.stage, refused.errname) == (False, "submit", "ECANCELED")
    assert client.canary(gfx, idle).ok
    assert client.canary(compute, idle).ok


# -- lockup_timeout, as amdgpu reads it ---------------------------------------------


@pytest.fixture
def reloaded(sim: Dut, request: pytest.FixtureRequest) -> Iterator[Dut]:
    """simgpu with another lockup_timeout than the kernel command line's."""
    unload = "for n in $(seq 100); do rmmod amdgpu && exit; sleep 0.1; done; exit 1"
    sh(sim, f"({unload}) && modprobe amdgpu lockup_timeout={request.param} && udevadm settle")
    yield sim
    sh(sim, f"({unload}) && modprobe amdgpu && udevadm settle")


@pytest.mark.parametrize(
    ("reloaded", "finite"),
    [("700", {"gfx", "sdma"}), ("0,700,-1", {"compute"}), ("0,700,0,-1", {"compute"})],
    indirect=["reloaded"],
)
def test_lockup_timeout_means_what_it_means_to_amdgpu(reloaded: Dut, finite: set[str]) -> None:
    (card,) = reloaded.call("cards")["cards"]
    for ip in KINDS:
        engine = engine_of(reloaded, ip)
        told = reloaded.gpu.timeout_s(engine, card)
        with reloaded.client() as client:
            job = client.hang(engine)
            if ip in finite:
                # Of a lone value the harness cannot tell whether it was a list: see gpu/amdgpu.py.
                assert told == 0.7 or (told is None and len(finite) > 1 and ip != "gfx")
                fence = client.wait(job, Deadline(PATIENCE_S))
                assert fence.error == -errno.ETIME, str(fence)
                assert fence.seconds is not None
                assert fence.seconds >= 0.9 * 0.7
            else:
                assert told is None or told >= 10
                assert not client.wait(job, Deadline(2.0)).signaled
                client.release(job)
                assert client.wait(job, Deadline(PATIENCE_S)).error == 0


# -- memory and fences that are shared: with vgem by PRIME, with a process by userptr -----


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
