"""Tests that do to their target, agent or link what a bad night would; run by faults.py one floor
up, each followed by one that must not feel it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.link.machine import Virtual
from harness.live.dut import Dut
from harness.tests.vm.faultplugin import switch
from harness.tests.vm.sandbox import loopback

# Lines that each victim has the kernel log before its fault: all of them must be in the evidence.
LINES = 50
# Bytes of a flood.
FLOOD = 50_000_000
# What fills the host's disk, in the run's directory.
FILLER = "filler"
# Called when the fault is about to happen: from then on its time counts.
Now = Callable[[], None]
# Longest that a body waits for what it did to show.
PATIENCE_S = 300.0


def _shell(dut: Dut, script: str, limit: float = 60.0) -> None:
    dut.agent.call("run", Deadline(limit + 5), argv=["sh", "-c", script], timeout=limit)


def _write(dut: Dut, path: str, data: str) -> None:
    """Of a write that does not come back there is nothing to tell."""
    with contextlib.suppress(HarnessError):
        coded = b64encode(data.encode()).decode()
        dut.agent.call("write", Deadline(PATIENCE_S), path=path, data=coded, seconds=PATIENCE_S)


def _gone(dut: Dut) -> None:
    """Until the link is given up, however the harness finds out."""
    deadline = Deadline(PATIENCE_S)
    while dut.agent.alive and deadline.pause(0.02):
        pass
    dut.health()  # raises what ended the link


def panic(dut: Dut, now: Now) -> None:
    """The kernel dies."""
    now()
    _write(dut, "/proc/sysrq-trigger", "c")
    _gone(dut)


def oops(dut: Dut, now: Now) -> None:
    """An oops in recovery, which the lab has made deadly."""
    _write(dut, "/proc/sys/kernel/panic_on_oops", "1\n")
    switch(dut, "oops")
    now()
    with contextlib.suppress(HarnessError):
        dut.reset_gpu(Deadline(PATIENCE_S))
    _gone(dut)


def hard_lockup(dut: Dut, now: Now) -> None:
    """A processor stands still with interrupts off; its buddy notices, and the lab has made that
    deadly."""
    _write(dut, "/proc/sys/kernel/hardlockup_panic", "1\n")
    switch(dut, "hard_lockup")
    now()
    with contextlib.suppress(HarnessError):
        dut.reset_gpu(Deadline(PATIENCE_S))
    _gone(dut)


def agent_stopped(dut: Dut, now: Now) -> None:
    """The agent does nothing any more, and the kernel lives."""
    now()
    _shell(dut, f"kill -STOP {dut.facts['pid']}")
    _gone(dut)


def sshd_killed(dut: Dut, now: Now) -> None:
    """The server and all its sessions; init starts it again."""
    now()
    with contextlib.suppress(HarnessError):
        _shell(dut, "pkill -KILL sshd")
    _gone(dut)


def reinstalled(dut: Dut, now: Now) -> None:
    """It has another host key than before."""
    script = "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f {}; sync; {}"
    place = "/etc/ssh/ssh_host_ed25519_key"
    now()
    with contextlib.suppress(HarnessError):
        _shell(dut, script.format(place, "pkill -KILL sshd"))
    _gone(dut)


def reboot_loop(dut: Dut, now: Now) -> None:
    """From now on each boot ends in a panic."""
    line = "echo c > /proc/sysrq-trigger"
    _shell(dut, f"sed -i '/mount -a/a {line}' /etc/init.d/rcS; sync")
    now()
    panic(dut, lambda: None)


def console_flood(dut: Dut, now: Now) -> None:
    """A great deal on the console, which takes as long as it takes."""
    now()
    _shell(dut, f"head -c {FLOOD} /dev/zero | tr '\\0' '~' | fold -w 99 > /dev/console", 3600.0)


def console_cut(dut: Dut, now: Now) -> None:
    """Nobody reads the console any more, and then the kernel dies."""
    machine = dut._machine
    assert isinstance(machine, Virtual)
    machine.qemu.console.detach()
    panic(dut, now)


def disk_full_target(dut: Dut, now: Now) -> None:
    """No byte is left on its disk when a new agent has to be started."""
    filler = "/var/tmp/lab-filler"
    most = "fallocate -l $(($(stat -f -c '%a * %S' /))) $0"
    rest = "dd if=/dev/zero of=$0.rest bs=1M 2> /dev/null"
    dut.agent.call(
        "run",
        Deadline(PATIENCE_S + 5),
        argv=["sh", "-c", f"{most}; {rest}; sync", filler],
        timeout=PATIENCE_S,
    )
    now()
    _shell(dut, f"kill -KILL {dut.facts['pid']}")
    _gone(dut)


def disk_full_host(dut: Dut, now: Now) -> None:
    """No byte is left for evidence; there is room again when the test is over."""
    disk = os.statvfs(dut.run.path)
    assert disk.f_blocks * disk.f_frsize < 1 << 30, "this would fill a disk of somebody's"
    now()
    with contextlib.suppress(OSError), (dut.run.path / FILLER).open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 16))
    _shell(dut, "for n in $(seq 200); do echo a line that does not fit > /dev/kmsg; done")


def clock_jump(dut: Dut, now: Now) -> None:
    """The target's clock is a day ahead of itself."""
    now()
    _shell(dut, "date -s @$(($(date +%s) + 86400))")


def qemu_killed(dut: Dut, now: Now) -> None:
    """The machine is gone from one instant to the next."""
    machine = dut._machine
    assert isinstance(machine, Virtual)
    now()
    os.kill(machine.qemu.pid, signal.SIGKILL)
    _gone(dut)


def network_5s(dut: Dut, now: Now) -> None:
    """A cut that nobody needs to notice."""
    _cut(now, 5.0).join()
    dut.health()


def network_60s(dut: Dut, now: Now) -> None:
    """A cut that ends every connection."""
    _cut(now, 60.0)
    _gone(dut)


def _cut(now: Now, seconds: float) -> threading.Thread:
    """What is lost counts from when the network is back."""

    def mend() -> None:
        loopback(up=True)
        now()

    loopback(up=False)
    over = threading.Timer(seconds, mend)
    over.start()
    return over


FAULTS: dict[str, Callable[[Dut, Now], None]] = {
    function.__name__: function
    for function in (
        *(panic, oops, hard_lockup, agent_stopped, sshd_killed, console_flood, console_cut),
        *(disk_full_target, disk_full_host, clock_jump, qemu_killed, network_5s, network_60s),
        *(reinstalled, reboot_loop),
    )
}


@pytest.fixture
def room(dut: Dut) -> Iterator[None]:
    """What filled a disk is gone after the test."""
    yield
    (dut.run.path / FILLER).unlink(missing_ok=True)


@pytest.mark.destructive
@pytest.mark.parametrize("state", ["on", "after"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_day(dut: Dut, room: None, fault: str, state: str) -> None:
    """With the fault, or right after it."""
    if state == "after":
        assert dut.health()["debug_locks"] == 1
        return
    _shell(dut, f'for n in $(seq {LINES}); do echo "<6>fault {fault} $n." > /dev/kmsg; done')
    FAULTS[fault](dut, lambda: dut.run.journal.add("fault", fault=fault))


@pytest.mark.parametrize("number", range(4))
def test_quiet(dut: Dut, number: int) -> None:
    """Takes a moment, and does nothing."""
    _shell(dut, "sleep 1")
