"""sim-gen3: the real i915 on a modelled chip, and what becomes of it when the lab's part dies."""

from __future__ import annotations

import base64
import os
import select
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence import journal
from harness.inventory import Target
from harness.link.console import log_file
from harness.link.qemu import Qemu
from harness.link.virtual import load_manifest
from harness.tests.inner import ROOT, Session, processes_mentioning
from harness.tests.vm.bare import Vm

VICTIMS = "harness/tests/vm/victims/gen3_model.py"
BOOT_S = 240.0


def _target() -> Target:
    return inventory.load(ROOT / "targets.toml").get("sim-gen3")


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    made = Vm(_target(), tmp_path_factory.mktemp("gen3"))
    try:
        made.machine.start(Deadline(BOOT_S))
        yield made
    finally:
        made.machine.stop()


# -- the machine ------------------------------------------------------------------


def test_the_unmodified_i915_drives_it(vm: Vm) -> None:
    vm.sh("udevadm settle")
    assert vm.sh("basename $(readlink /sys/bus/pci/devices/0000:00:02.0/driver)").strip() == "i915"
    assert vm.sh("cat /sys/bus/pci/devices/0000:00:02.0/device").strip() == "0x29c2"
    assert vm.sh("readlink /sys/class/drm/card0/device").strip().endswith("0000:00:02.0")
    assert vm.sh("stat -c %G /dev/dri/renderD128").strip() == "render"
    assert vm.sh("cat /proc/sys/kernel/tainted").strip() == "0"
    assert "debug_locks:                             1" in vm.sh("cat /proc/lockdep_stats")


def test_its_interrupt_is_a_level_of_the_io_apic_and_is_its_own(vm: Vm) -> None:
    (line,) = [row for row in vm.sh("cat /proc/interrupts").splitlines() if "i915" in row]
    assert line.split()[-2:] == ["22-fasteoi", "i915"]


def test_it_is_not_wedged_and_a_reset_by_hand_reaches_the_chip(vm: Vm) -> None:
    wedged = "/sys/kernel/debug/dri/0/i915_wedged"
    assert vm.sh(f"cat {wedged}").strip() == "0"
    before = vm.machine.model.control("state")["state"]["resets"]
    vm.sh(f"echo 1 > {wedged}; cat {wedged}")
    assert vm.machine.model.control("state")["state"]["resets"] > before


def test_a_person_gets_a_picture_of_what_it_scans_out(vm: Vm, tmp_path: Path) -> None:
    png = base64.b64decode(vm.machine.model.control("frame", pipe=0)["png"])
    assert png.startswith(b"\x89PNG")
    done = subprocess.run(
        [sys.executable, "-m", "tools.gen3.control", vm.machine.model.control_socket, "state"],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert '"chip": "g33"' in done.stdout, done.stderr


def test_a_reboot_from_inside_gives_a_new_chip_in_the_same_process(vm: Vm) -> None:
    model, pid = vm.machine.model, vm.machine.model.pid
    model.control("set", fault="vblank_frozen", value="on")
    boot = vm.sh("cat /proc/sys/kernel/random/boot_id")
    vm.sh("(sleep 0.2; reboot) > /dev/null 2>&1 < /dev/null &")
    deadline = Deadline(BOOT_S)
    while not any(event["event"] == "RESET" for event in vm.machine.events):
        assert deadline.pause(0.1), "no reset"
    vm.machine.wait_ssh(deadline)
    assert vm.sh("cat /proc/sys/kernel/random/boot_id") != boot
    assert model.pid == pid
    faults = {row["name"]: row["value"] for row in model.control("faults")["faults"]}
    assert faults["vblank_frozen"] == "off"
    assert vm.sh("cat /sys/kernel/debug/dri/0/i915_wedged").strip() == "0"


# -- when the model dies ----------------------------------------------------------


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Qemu]:
    """A machine that has just been switched on."""
    log = log_file(tmp_path / "console.log")
    machine = Qemu(_target(), load_manifest(), tmp_path / "run", log)
    try:
        machine.on(Deadline(60))
        assert machine.console.wait_received(100, Deadline(BOOT_S))
        yield machine
    finally:
        machine.stop()


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(60)
    while not condition():
        assert deadline.pause(0.05), what


def test_a_model_that_dies_while_it_boots_is_named_and_the_machine_goes_with_it(on: Qemu) -> None:
    pid = on.pid
    os.kill(on.model.pid, signal.SIGKILL)
    with pytest.raises(LabError, match=r"model of the g33 died \(killed by signal 9\)"):
        on.wait_ssh(Deadline(BOOT_S))
    assert not on.alive()
    assert not Path(f"/proc/{pid}").exists()
    on.cycle(Deadline(60))
    assert on.trouble() == ""
    assert on.model.alive()


def test_a_qemu_that_dies_takes_the_model_along_and_that_is_no_trouble_of_the_models(
    on: Qemu,
) -> None:
    model = on.model
    os.kill(on.pid, signal.SIGKILL)
    _wait(lambda: not on.alive() and not model.alive(), "the model outlived QEMU")
    assert on.exit_reason() == "QEMU ended: killed by signal 9"
    assert on.trouble() == ""


CONTROLLER = """
import sys, time
from pathlib import Path
from harness import inventory
from harness.deadline import Deadline
from harness.link.qemu import Qemu
from harness.link.virtual import load_manifest
target = inventory.load(Path("targets.toml")).get("sim-gen3")
machine = Qemu(target, load_manifest(), Path(sys.argv[1]), lambda data: None)
machine.on(Deadline(60))
print(machine.pid, machine.model.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_controller_takes_both_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE
    ) as controller:
        assert controller.stdout is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in controller.stdout.readline().split()]
        assert len(pidfds) == 2
        assert not select.select(pidfds, [], [], 0)[0], "both run"
        controller.kill()
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 60)[0], "it outlived its controller"
            os.close(pidfd)


HEART = {
    "test_a_killed_while_it_hangs": "error",
    "test_b_the_next_has_a_new_boot_and_a_new_model": "pass",
}
REST = {
    "test_c_killed_in_a_body_that_fails": "error",
    "test_d_passes_before_the_kill": "pass",
    "test_e_after_a_kill_between_two_tests": "pass",
    "test_f_killed_at_the_very_end_of_a_body": "error",
    "test_g_the_next_has_a_new_boot_again": "pass",
}


@pytest.mark.parametrize(
    "wanted", [HEART, pytest.param(REST, marks=pytest.mark.deep)], ids=["heart", "rest"]
)
def test_whatever_the_kernel_says_then_is_the_labs_error(
    tmp_path: Path, request: pytest.FixtureRequest, wanted: dict[str, str]
) -> None:
    name = f"sim-{zlib.crc32(request.node.name.encode()):08x}"
    targets = tmp_path / "targets.toml"
    targets.write_text(
        f'[targets.{name}]\ndriver = "i915"\ndestructive = true\n'
        'vm = { chip = "g33", cpus = 1 }\nlimits = { boot_s = 240, command_s = 60 }\n'
    )
    session = Session(targets, tmp_path / "runs", name)
    done = session.run(*(f"{VICTIMS}::{test}" for test in wanted))
    verdicts = session.verdicts()
    outcomes = {test: verdict.outcome for test, verdict in verdicts.items()}
    assert outcomes == wanted, done.stdout
    died = "the model of the g33 died (killed by signal 9); see gen3.log"
    for test in [name for name, verdict in verdicts.items() if verdict.outcome == "error"]:
        assert verdicts[test].reason == died
        assert {finding.severity for finding in verdicts[test].findings} <= {"note"}
    assert died in done.stdout
    (run,) = session.run_dirs()
    troubles = [entry for entry in journal.read(run.journal.path) if entry["what"] == "trouble"]
    # One of REST is killed between two tests, which is nobody's error.
    assert len(troubles) == list(wanted.values()).count("error")
    assert (run.path / "gen3.log").exists()
    assert not processes_mentioning(name), "something of the machine is left"
