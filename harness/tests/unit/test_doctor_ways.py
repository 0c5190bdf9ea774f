"""What the doctor says of the ways into a box: each is tried, each failure has its cure."""

from __future__ import annotations

import os
import pty
from types import SimpleNamespace
from typing import Any

import pytest

from harness import ways
from harness.check import Check
from harness.doctor_ways import configured, standing
from harness.inventory import Target, VmSpec

__all__: list[str] = []


def _box(**more: Any) -> Target:
    return Target(driver="i915", name="box", address="box", host_key="SHA256:x", **more)


def _checks(target: Target) -> dict[str, Check]:
    return {check.what: check for check in configured(target)}


def test_a_box_without_any_is_told_of_each() -> None:
    found = _checks(_box())
    assert {name: check.ok for name, check in found.items()} == {
        "console": None,
        "power": None,
        "boot": True,
        "watchdog": None,
    }
    assert all(check.cure for check in found.values() if check.ok is None)


def test_a_watchdog_stands_in_for_power() -> None:
    assert "watchdog" not in _checks(_box(watchdog=ways.Watchdog()))


def test_a_virtual_machine_is_its_own() -> None:
    assert _checks(Target(driver="amdgpu", name="sim", vm=VmSpec(gpu="ati-vga"))) == {}


@pytest.mark.parametrize(
    ("said", "ok", "found"),
    [
        ("Chassis Power is on", True, "on"),
        ("outlet 7: off", False, "off"),
        ("?", False, "power command 'echo' says neither on nor off"),
    ],
)
def test_power_is_asked(said: str, ok: bool, found: str) -> None:
    power = ways.CommandPower(on=("true",), off=("true",), query=("echo", said), nmi=("true",))
    checks = _checks(_box(power=power))
    assert (checks["power, command"].ok, checks["power, command"].found) == (ok, found)
    assert ok is False or checks["NMI"].ok


def test_power_that_cannot_be_asked_is_no_failure() -> None:
    checks = _checks(_box(power=ways.CommandPower(on=("true",), off=("true",))))
    assert checks["power, command"].ok is True
    assert "lab power NAME cycle" in checks["power, command"].found
    assert checks["NMI"].ok is None


def test_a_console_is_opened_and_let_go() -> None:
    master, slave = pty.openpty()
    try:
        target = _box(console=ways.SerialConsole(port=os.ttyname(slave)))
        for _ in range(2):  # it is not kept from the run that comes next
            assert _checks(target)["console, serial"] == Check(True, "console, serial", "opens")
    finally:
        os.close(slave)
        os.close(master)
    gone = _checks(_box(console=ways.SerialConsole(port="/dev/no-such-port")))["console, serial"]
    assert gone.ok is None, "a test can go on without it"
    assert "/dev/no-such-port" in gone.found
    assert gone.cure


def test_a_usb_adapter_that_is_not_there_is_named() -> None:
    console = ways.SerialConsole(usb="ffff:ffff", serial="none-such")
    gone = _checks(_box(console=console))["console, serial"]
    assert gone.ok is None
    assert "no USB serial adapter(s) fit ffff:ffff, none-such" in gone.found


def test_what_stands_by_is_told_and_what_does_not() -> None:
    dut: Any = SimpleNamespace(
        target=_box(netconsole=ways.Netconsole(), watchdog=ways.Watchdog()),
        guards=SimpleNamespace(
            armed={"netconsole": "eth0 10.0.0.5 to 10.0.0.1:6666"},
            absent={"watchdog": ("cannot open the watchdog", "load its driver")},
        ),
        facts={"cmdline": "root=/dev/sda1 quiet"},
        call=lambda op, argv: {"stdout": "4\t4\t1\t7\n"},
    )
    found = {check.what: check for check in standing(dut)}
    assert found["netconsole"].ok is True
    assert found["watchdog"] == Check(
        None, "watchdog", "cannot open the watchdog", "load its driver"
    )
    assert found["what consoles show"].ok is None
    assert found["what consoles show"].found == "levels below 4"
    dut.facts["cmdline"] = "quiet ignore_loglevel"
    assert {c.ok for c in standing(dut) if c.what == "what consoles show"} == {True}
