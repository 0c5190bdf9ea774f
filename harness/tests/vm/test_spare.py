"""A spare machine for real: it boots beside the one that is tested, and takes over from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import inventory
from harness.deadline import Deadline
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.link.machine import CONSOLE_SOCKET, Virtual, machine_for, state_dir
from harness.live.dut import Dut
from harness.tests.inner import processes_mentioning, targets_file
from harness.tests.vm.faultplugin import switch
from harness.tests.vm.guest import PATIENCE_S, engine_of, sh
from harness.verdict import record

NAME = "sim-spare"


@pytest.fixture
def doubled(tmp_path: Path) -> Iterator[Dut]:
    path = targets_file(tmp_path / "targets.toml", NAME)
    path.write_text(path.read_text().replace("vm = {", "vm = { spare = true,"))
    target = inventory.load(path).get(NAME)
    with Reservation.take(NAME, "test_spare"):
        made = Dut(target, RunDir.create(tmp_path / "runs", NAME), machine_for(target), print)
        try:
            made.connect()
            yield made
        finally:
            made.close()
        assert not processes_mentioning(f"process=tdrlab-{NAME}")
        assert not state_dir(target).is_symlink()


def _splat(dut: Dut, test: str) -> set[str]:
    """A window in which lockdep reports and is off; the kinds of its findings."""
    window = dut.begin(test, destructive=True)
    switch(dut, "console_lock")
    with dut.client() as client:
        client.wait(client.hang(engine_of(dut, "gfx")), Deadline(PATIENCE_S))
    window.body = "passed"
    dut.end(window)
    return {finding.kind for finding in record(dut.run, window).findings}


@pytest.mark.deep
def test_lockdep_is_armed_again_without_a_reboot(doubled: Dut) -> None:
    dut = doubled
    boots = [dut.boot_id]
    for number in range(2):
        assert "lockdep" in _splat(dut, f"t::guilty{number}")
        assert dut.health()["debug_locks"] == 0
        assert dut.spare is not None
        deadline = Deadline(PATIENCE_S)
        while number == 0 and not dut.spare.ready:
            assert deadline.pause(0.1), "the spare does not come up"
        dut.rearm()
        boots.append(dut.boot_id)
        assert dut.health()["debug_locks"] == 1
        # What it says goes on in a boot of its own, and people who watch see the new one.
        window = dut.begin(f"t::innocent{number}", destructive=False)
        sh(dut, "echo over here > /dev/kmsg")
        window.body = "passed"
        dut.end(window)
        assert record(dut.run, window).outcome == "pass"
        assert window.boot_id == boots[-1]
        at = dut._machine
        assert isinstance(at, Virtual)
        assert state_dir(dut.target).resolve() == at.qemu.console_socket.parent.resolve()
        assert (state_dir(dut.target) / CONSOLE_SOCKET).exists()
        assert b"over here" in (dut.run.boot(boots[-1]) / "console.log").read_bytes()
    assert len(set(boots)) == 3
    assert dut.run.facts()["boots"] == boots
    told = list(journal.read(dut.run.journal.path))
    gone_over = [e for e in told if e["what"] == "spare"]
    assert [e["boot"] for e in gone_over] == boots[1:]
    assert gone_over[0]["ready"]
    assert not [e for e in told if e["what"] in ("reboot", "spare-failed", "booting")]
    for boot in boots:
        log = (dut.run.boot(boot) / "console.log").read_bytes()
        assert log.count(b"Linux version") == 1, "each machine's console is in its own boot"
