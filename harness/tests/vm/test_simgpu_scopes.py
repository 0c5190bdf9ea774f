"""Each scope of recovery ends what it should, nothing else, and is clean when annotated."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.evidence.rundir import Window
from harness.gpu.base import Engine
from harness.live.client import Client
from harness.live.dut import Dut
from harness.tests.inner import Session, targets_file
from harness.tests.vm.guest import PATIENCE_S, engine_of, sh
from harness.tests.vm.scopeplugin import ALIKE, SCOPE
from harness.tests.vm.screen import flipper, told, wedged

CMDLINE = "amdgpu.lockup_timeout=500,500,500,500"
SCOPES = ("soft", "ring", "full", "display")
KINDS = ("gfx", "compute", "sdma")
# Resets of one storm, and seconds that each may take.
ROUNDS, DEEP_ROUNDS, ROUND_S = 12, 200, 20.0


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest, sim: Dut) -> str:
    """The scope in force; the parameter is restored after the test."""
    name = str(request.param)
    sim.call("knob", path=SCOPE, value=name)
    return name


@contextmanager
def loaded(sim: Dut, arguments: str) -> Iterator[None]:
    """simgpu loaded anew with these module parameters.  Clients must be gone at the end."""
    unload = "for n in $(seq 100); do rmmod amdgpu 2> /dev/null && exit; sleep 0.1; done; exit 1"
    sh(sim, f"({unload}) && modprobe amdgpu {arguments} && udevadm settle")
    yield
    sh(sim, f"({unload}) && modprobe amdgpu && udevadm settle")


def dump_of(sim: Dut) -> str:
    return f"/sys/class/drm/{sim.card['name']}/device/devcoredump/data"


def no_dump(sim: Dut) -> None:
    path = dump_of(sim)
    sh(sim, f"test ! -e {path} || echo 1 > {path}")


def pinned(sim: Dut, ip: str) -> Engine:
    engine = engine_of(sim, ip)
    sim.pin(engine)
    return engine


# -- what a scope ends, and what it tells ------------------------------------------

# The guilty fence, the one behind it on its ring, one on another ring; whether the context is
# guilty; the uevents; the steps in the log.
FULL = (-errno.ETIME, -errno.ECANCELED, -errno.ECANCELED), True, 1, ("hang", "reset-begin")
ENDS: dict[str, tuple[tuple[int, int, int], bool, int, tuple[str, ...]]] = {
    "soft": ((-errno.ENODATA, 0, 0), False, 0, ("soft-recovered",)),
    "ring": (
        (-errno.ETIME, -errno.ECANCELED, 0),
        False,
        1,
        ("hang", "reset-begin", "reset-done"),
    ),
    "full": (*FULL[:3], (*FULL[3], "reset-done")),
    "display": (*FULL[:3], (*FULL[3], "reset-done")),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_ends_what_it_should_and_nothing_else(
    sim: Dut, scope: str, sim_window: Window
) -> None:
    errors, guilty, uevents, steps = ENDS[scope]
    before = len(wedged(sim))
    no_dump(sim)
    # A hang on gfx times out soon, one on compute not within the test.
    with loaded(sim, f"lockup_timeout=2000,60000,2000 sim_reset_scope={scope}"):
        with sim.client() as client, sim.client() as second, sim.client() as third:
            check_ends(sim, (client, second, third), errors, guilty)
        with sim.client() as fresh:
            for engine in sim.engines():
                assert fresh.canary(engine).ok
        assert tuple(event.step for event in sim.gpu_events(sim_window)) == steps
        assert [event["WEDGED"] for event in told(sim, before, uevents)] == ["none"] * uevents
        sh(sim, f"for n in $(seq 100); do test -e {dump_of(sim)} && exit; sleep 0.1; done; exit 1")
        lines = sh(sim, f"cat {dump_of(sim)}").splitlines()
        assert any(line.startswith("IP Type: 0 Ring Name: gfx_0.0.0 ") for line in lines), lines
        no_dump(sim)


def check_ends(
    sim: Dut, clients: tuple[Client, Client, Client], errors: tuple[int, int, int], guilty: bool
) -> None:
    """Of a hang, of a job behind it on its ring, and of one on another ring."""
    gfx, compute = engine_of(sim, "gfx"), engine_of(sim, "compute")
    client, second, third = clients
    idle = client.context()

    beside = third.hang(compute)
    hang = client.hang(gfx)
    behind = second.hang(gfx)
    second.release(behind)  # it would end at once, were it its turn
    ended = client.wait(hang, Deadline(PATIENCE_S))
    after = second.wait(behind, Deadline(PATIENCE_S))
    still = third.wait(beside, Deadline(0.5))
    if not errors[2]:
        assert not still.signaled, "another ring's job was touched"
        third.release(beside)
        still = third.wait(beside, Deadline(PATIENCE_S))

    assert (ended.error, after.error, still.error) == errors
    assert client.reset_state() == ({"reset", "guilty"} if guilty else {"reset"})
    for innocent in (second.reset_state(), third.reset_state(), client.reset_state(idle)):
        assert innocent == {"reset"}
    # A context's entity that lost its last job takes no more, guilty or not.
    refused = client.canary(gfx)
    assert (refused.ok, refused.stage) == (False, "submit")
    assert second.canary(gfx).ok is not bool(errors[1])


def test_sdma_has_no_soft_recovery_as_in_amdgpu(sim: Dut, sim_window: Window) -> None:
    sim.call("knob", path=SCOPE, value="soft")
    client = sim.client()
    fence = client.wait(client.hang(pinned(sim, "sdma")), Deadline(PATIENCE_S))
    assert fence.error == -errno.ETIME
    steps = [(event.step, event.engine) for event in sim.gpu_events(sim_window)]
    assert steps == [("hang", "sdma0"), ("reset-begin", "sdma0"), ("reset-done", "sdma0")]


def test_debug_mask_bit_2_disables_soft_recovery_as_in_amdgpu(sim: Dut, sim_window: Window) -> None:
    with loaded(sim, "debug_mask=4 sim_reset_scope=soft"), sim.client() as client:
        fence = client.wait(client.hang(engine_of(sim, "gfx")), Deadline(PATIENCE_S))
        assert fence.error == -errno.ETIME
        steps = [event.step for event in sim.gpu_events(sim_window)]
        assert steps == ["hang", "reset-begin", "reset-done"]


@pytest.mark.deep
def test_the_testcases_pass_against_every_scope(tmp_path: Path) -> None:
    targets = targets_file(tmp_path / "targets.toml", "sim-scope")
    session = Session(targets, tmp_path / "runs", "sim-scope")
    some = "(gfx and (recovers[ or guilty or neighbour)) or recovers[sdma0"
    plugin = ("-p", "harness.tests.vm.scopeplugin")
    done = session.run(*plugin, "testcases/test_hang.py", "-k", some)
    assert done.returncode == 0, done.stdout
    outcomes = {name: verdict.outcome for name, verdict in session.verdicts().items()}
    for scope in ALIKE:
        of_scope = {name: end for name, end in outcomes.items() if scope in name}
        assert len(of_scope) == 4, outcomes
        # Only a reset of the whole GPU calls somebody guilty (amdgpu_job.c, amdgpu_job_timedout).
        guiltless = {} if scope == "full" else {"test_the_guilty_is_told": "skip"}
        others = {name.partition("[")[0]: end for name, end in of_scope.items() if end != "pass"}
        assert others == guiltless


# -- reset after reset -------------------------------------------------------------


def storm(sim: Dut, rounds: int) -> dict[str, Any]:
    """Hangs in turn on all kinds of engines, beside jobs on each and flips that wait for the
    hang; what became of them."""
    return flipper(sim, "storm", str(rounds), *KINDS, patience_s=ROUND_S * rounds + PATIENCE_S)


# What a hang may end with, and a neighbour's job: one that was on a ring which was reset.
LOST = {"fence -62", "fence -125", "submit ETIME", "submit ECANCELED"}
HANGS = {
    "soft": ({"-61", "-62"}, LOST | {"fence -61", "submit ENODATA"}),
    "ring": ({"-62", "-125"}, LOST),
    "full": ({"-62", "-125"}, LOST),
    "display": ({"-62", "-125"}, LOST),
}


def check_storm(result: dict[str, Any], scope: str, rounds: int) -> None:
    still = rounds // 4
    hangs, lost = HANGS[scope]
    assert set(result["hangs"]) <= hangs, result
    assert sum(result["hangs"].values()) == rounds
    pending = result["flips"].pop("pending")
    assert result["flips"] == {"asked": rounds - still, "delivered": rounds - still}, result
    assert pending > rounds // 2, f"hardly any flip was pending across its reset: {result}"
    assert result["still"] == {"same": still}, result
    for engine, outcomes in result["neighbours"].items():
        good = Counter(outcomes).pop("", 0)
        assert good >= rounds, f"{engine}: hardly any job completed beside the resets: {result}"
        assert set(outcomes) - {""} <= lost, f"{engine}: {result}"


def test_resets_under_load_with_a_flip_pending_are_clean(sim: Dut, scope: str) -> None:
    check_storm(storm(sim, ROUNDS), scope, ROUNDS)


@pytest.mark.deep
def test_two_hundred_resets_in_a_row_are_clean(sim: Dut, scope: str) -> None:
    result = storm(sim, DEEP_ROUNDS)
    print(scope, json.dumps(result))
    check_storm(result, scope, DEEP_ROUNDS)
