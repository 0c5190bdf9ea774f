"""What stands by while a machine may die, on a real kernel: netconsole, SysRq, NMI, watchdog.

In the order of the file: the last test ends the machine.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.kernel import formats
from harness.link.machine import Virtual
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S, put, run, sh
from harness.ways import Watchdog

# What ends the last test's machine is the watchdog.
CMDLINE = "panic=0"
# Seconds: enough for another agent to take over, and then for one that is alive.
FIRST_S, LATER_S = 300, 20
EXTRA = f"netconsole = {{}}\nwatchdog = {{ timeout_s = {FIRST_S} }}"


def _log(sim: Dut) -> Path:
    return sim._boot.path / "netconsole.log"


def _until(sim: Dut, said: bytes) -> bytes:
    """The netconsole log, once it has `said`."""
    deadline = Deadline(PATIENCE_S)
    while said not in (log := _log(sim).read_bytes() if _log(sim).exists() else b""):
        assert deadline.pause(0.05), f"{said!r} did not come: {log[-2000:]!r}"
    return log


def test_each_stands_by_and_says_how(connected: Dut) -> None:
    armed = connected.guards.armed
    assert set(armed) == {"netconsole", "watchdog", "NMI"}
    assert armed["netconsole"].startswith("eth0 10.0.2.15 to 10.0.2.2:")
    assert armed["watchdog"] == f"i6300ESB timer, {FIRST_S} s"
    assert connected.remarks() == []


def test_a_record_comes_in_pieces_and_is_whole_again(connected: Dut) -> None:
    # With its header beyond the 1000 bytes of a packet (MAX_PRINT_CHUNK, drivers/net/netconsole.c).
    text = "0123456789" * 98 + " end"
    put(connected, "/dev/kmsg", f"<3>{text}\n")
    log = _until(connected, b" end\n")
    assert b",ncfrag=0/" in log
    assert text in [record.text for record in formats.read(log)]


def test_what_netconsole_has_is_what_kmsg_has(connected: Dut) -> None:
    put(connected, "/dev/kmsg", "<3>the same by both ways\n")
    log = _until(connected, b"the same by both ways\n")
    line = next(line for line in log.splitlines() if b"the same by both ways" in line)
    connected.at.mark("after it")
    kmsg = (connected._boot.path / "kmsg").read_bytes().splitlines()
    assert line in kmsg


def test_a_break_on_the_console_is_sysrq(connected: Dut) -> None:
    put(connected, "/proc/sys/kernel/sysrq", "1")
    assert connected._machine.sysrq("w", Deadline(PATIENCE_S))
    _until(connected, b"sysrq: Show Blocked State")


def test_an_agent_that_replaces_a_dead_one_sets_it_up_anew(connected: Dut) -> None:
    with pytest.raises(LabError, match="the agent ended"):
        # Its own file is gone, too, though this boot had it.
        run(connected, "sh", "-c", "rm /var/tmp/lab-agent-*; kill -9 $PPID")
    connected._drop()
    target = msgspec.structs.replace(connected.target, watchdog=Watchdog(timeout_s=LATER_S))
    connected.guards._target = target
    connected._attach(wait=True)
    assert set(connected.guards.armed) == {"netconsole", "watchdog", "NMI"}
    assert connected.guards.armed["watchdog"] == f"i6300ESB timer, {LATER_S} s"
    assert "watchdog did not stop!" in sh(connected, "dmesg"), "it stayed armed in between"
    put(connected, "/dev/kmsg", "<3>heard by the second\n")
    _until(connected, b"heard by the second\n")


def test_an_nmi_panics_netconsole_has_the_stack_the_watchdog_resets(connected: Dut) -> None:
    assert sh(connected, "cat /proc/sys/kernel/unknown_nmi_panic") == "1\n"
    machine = connected._machine
    assert isinstance(machine, Virtual)
    assert machine.power.nmi(Deadline(PATIENCE_S))
    log = _until(connected, b"Kernel panic - not syncing: NMI: Not continuing")
    assert b"unknown_nmi_error" in _until(connected, b"</NMI>")
    assert b"Uhhuh" in log
    events = machine.qemu.events
    deadline = Deadline(PATIENCE_S)
    while not any(event["event"] == "WATCHDOG" for event in events):
        assert deadline.pause(0.1), f"the watchdog did not fire: {events}"
    connected._drop()
