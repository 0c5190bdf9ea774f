"""The virtual target itself: boots, answers, survives power cycles, dies with us."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target
from harness.link.console import log_file
from harness.link.qemu import Qemu
from harness.link.virtual import load_manifest
from harness.tests.vm.bare import Vm

ROOT = Path(__file__).parents[3]
# Seconds; generous, for an overloaded machine under emulation.  Nothing here is timed.
BOOT_S = 240.0


def _target() -> Target:
    return inventory.load(ROOT / "targets.toml").get("sim-navi")


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    made = Vm(_target(), tmp_path_factory.mktemp("vm"))
    try:
        made.machine.start(Deadline(BOOT_S))
        yield made
    finally:
        made.machine.stop()


def _later(command: str) -> str:
    """`command` in the background, so that the shell ends before its connection does."""
    return f"(sleep 0.2; {command}) > /dev/null 2>&1 < /dev/null &"


def _pairs(lines: str) -> dict[str, str]:
    """Second word to first, of each line."""
    return {words[1]: words[0] for words in map(str.split, lines.splitlines())}


def test_it_is_the_kernel_we_built_with_the_judge_armed(vm: Vm) -> None:
    manifest = load_manifest()
    assert vm.sh("uname -r").strip() == manifest.release
    assert "debug_locks:                             1" in vm.sh("cat /proc/lockdep_stats")
    assert vm.sh("zcat /proc/config.gz | grep -c CONFIG_PROVE_LOCKING=y").strip() == "1"
    assert vm.sh("cat /sys/module/gpu_sched/parameters/tdr_annotation").strip() == "Y"
    assert vm.sh("cat /proc/sys/kernel/tainted").strip() == "0"


def test_the_machine_looks_like_one_to_what_runs_on_it(vm: Vm) -> None:
    assert vm.sh("hostname").strip() == "sim-navi"
    kinds = {line.split()[2] for line in vm.sh("cat /proc/mounts").splitlines()}
    for kind in ("debugfs", "tracefs", "configfs", "devpts", "cgroup2", "pstore"):
        assert kind in kinds, f"{kind} is not mounted"
    assert vm.sh("ip -o addr show lo | grep -c 127.0.0.1/8").strip() == "1"
    vm.sh("for tool in modetest amdgpu_stress python3 udevadm ip; do command -v $tool; done")
    assert vm.sh("id -nG gpu").split() == ["gpu", "video", "render"]
    assert vm.sh("echo $PATH").count("sbin") == 3


def test_the_gpu_is_bound_by_its_alias_and_its_nodes_have_their_groups(vm: Vm) -> None:
    vm.sh("udevadm settle")
    bound = vm.sh("basename $(readlink /sys/bus/pci/devices/0000:00:02.0/driver)").strip()
    assert bound == "amdgpu"
    nodes = _pairs(vm.sh("stat -c '%G %n' /dev/dri/*[0-9]"))
    assert nodes["/dev/dri/renderD128"] == "render"
    assert nodes["/dev/dri/card0"] == "video"
    assert "i915" not in vm.sh("cat /proc/modules")


def test_the_console_has_the_kernels_first_line_and_what_comes_later(vm: Vm) -> None:
    assert b"Linux version 6.12" in vm.log.read_bytes().split(b"\n", 1)[0]
    vm.sh("echo '<7>a debug line of ours' > /dev/kmsg")
    seen = vm.log.stat().st_size
    deadline = Deadline(30)
    while b"a debug line of ours" not in vm.log.read_bytes():
        assert deadline.pause(0.05), f"not on the console ({seen} bytes)"


def test_the_console_takes_a_shell_for_people(vm: Vm) -> None:
    vm.machine.console.write(b"\r")
    deadline = Deadline(60)
    while b"# " not in vm.log.read_bytes()[-200:]:
        assert deadline.pause(0.05), "no prompt"
    vm.machine.console.write(b"echo to$((40+2))gether\r")
    while b"to42gether" not in vm.log.read_bytes():
        assert deadline.pause(0.05), "the shell did not answer"


def test_memory_is_lost_and_the_disk_kept_over_a_power_cycle(vm: Vm) -> None:
    before = vm.sh("cat /proc/sys/kernel/random/boot_id")
    vm.sh("touch /run/in-memory; echo kept > /root/on-disk; sync")
    pid, port = vm.machine.pid, vm.machine.endpoint().port
    vm.machine.cycle(Deadline(60))
    vm.machine.wait_ssh(Deadline(BOOT_S))
    assert vm.machine.pid != pid
    assert vm.machine.endpoint().port == port
    assert vm.sh("cat /proc/sys/kernel/random/boot_id") != before
    assert vm.sh("cat /root/on-disk") == "kept\n"
    assert vm.sh("ls /run/in-memory || true") == ""
    assert vm.log.read_bytes().count(b"Linux version 6.12") == 2


def test_a_reboot_from_inside_keeps_the_machine(vm: Vm) -> None:
    before, pid = vm.sh("cat /proc/sys/kernel/random/boot_id"), vm.machine.pid
    vm.sh(_later("reboot"))
    deadline = Deadline(BOOT_S)
    while not any(event["event"] == "RESET" for event in vm.machine.events):
        assert deadline.pause(0.1), "no reset"
    vm.machine.wait_ssh(deadline)
    assert vm.sh("cat /proc/sys/kernel/random/boot_id") != before
    assert vm.machine.pid == pid


def test_a_panic_is_on_the_console(vm: Vm) -> None:
    vm.sh("echo 0 > /proc/sys/kernel/panic")
    vm.sh(_later("echo c > /proc/sysrq-trigger"))
    deadline = Deadline(60)
    while b"end Kernel panic - not syncing: sysrq triggered crash" not in vm.log.read_bytes():
        assert deadline.pause(0.1), "no panic on the console"
    assert vm.machine.alive()
    with pytest.raises(LabError, match="Kernel panic"):
        vm.machine.wait_ssh(Deadline(1))
    vm.machine.cycle(Deadline(60))
    vm.machine.wait_ssh(Deadline(BOOT_S))


def test_a_power_off_from_inside_is_told_from_a_death(vm: Vm) -> None:
    vm.sh(_later("poweroff"))
    deadline = Deadline(60)
    while vm.machine.alive():
        assert deadline.pause(0.1), "still on"
    assert vm.machine.exit_reason() == "QEMU ended: exit status 0 (guest-shutdown)"
    assert vm.machine.pid == 0
    vm.machine.start(Deadline(BOOT_S))
    os.kill(vm.machine.pid, signal.SIGKILL)
    while vm.machine.alive():
        assert deadline.pause(0.1), "still on"
    assert "killed by signal 9" in vm.machine.exit_reason()


def test_kvm_is_used_where_it_works_and_else_its_absence_is_told(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    machine = Qemu(_target(), load_manifest(), tmp_path / "run", log_file(log), kvm=True)
    try:
        machine.on(Deadline(60))
        assert machine.console.wait_received(100, Deadline(BOOT_S))
        if machine.accel == "tcg":
            assert len(machine.notes) == 1
            assert "KVM" in machine.notes[0]
        else:
            assert machine.notes == []
        assert machine.accel.upper() in machine.describe()
    finally:
        machine.stop()
    assert b"Linux version" in log.read_bytes()


CONTROLLER = """
import sys, time
from pathlib import Path
from harness import inventory
from harness.deadline import Deadline
from harness.link.qemu import Qemu
from harness.link.virtual import load_manifest
from harness.tests.vm.bare import Vm
target = inventory.load(Path("targets.toml")).get("sim-navi")
machine = Qemu(target, load_manifest(), Path(sys.argv[1]), lambda data: None)
machine.on(Deadline(60))
print(machine.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_controller_takes_its_machine_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as controller:
        assert controller.stdout is not None
        pidfd = os.pidfd_open(int(controller.stdout.readline()))
        assert not select.select([pidfd], [], [], 0)[0], "QEMU runs"
        controller.kill()
        assert select.select([pidfd], [], [], 60)[0], "QEMU outlived its controller"
    os.close(pidfd)
