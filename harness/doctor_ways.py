"""What `lab doctor` says of the ways into a target: console, power, boot, last words.

Opens and asks each as a run would; switches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import ways
from harness.check import Check
from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.inventory import Target
from harness.link.console_source import source_for
from harness.link.power import power_for
from harness.live.dut import Dut

__all__ = ["configured", "standing"]

_LOGLEVEL = "/proc/sys/kernel/printk"


def configured(target: Target) -> Iterator[Check]:
    """The ways of a box; a virtual machine is its own."""
    if target.virtual:
        return
    yield _console(target)
    yield from _power(target)
    kind = target.public()["boot"]["kind"]
    yield Check(
        True,
        "boot",
        "whatever it boots by itself" if kind == "as-is" else f"a kernel of ours, by {kind}",
    )
    if target.watchdog is None and isinstance(target.power, ways.NoPower):
        yield Check(
            None,
            "watchdog",
            "none, nor any power control",
            "watchdog = {}, if it has one: then a machine that hangs resets itself",
        )


def _console(target: Target) -> Check:
    kind = target.public()["console"]["kind"]
    if isinstance(target.console, ways.NoConsole):
        return Check(
            None,
            "console",
            kind,
            'console = { kind = "serial", port = "/dev/serial/by-id/..." } (or tcp, telnet,'
            " rfc2217, ipmi-sol, socket, command): without it a machine's last lines are lost",
        )
    try:
        source = source_for(target)
    except HarnessError as error:
        return Check(None, f"console, {kind}", error.what, error.cure)
    if source is not None:
        source.close()
    return Check(True, f"console, {kind}", "opens")


def _power(target: Target) -> Iterator[Check]:
    kind = target.public()["power"]["kind"]
    if isinstance(target.power, ways.NoPower):
        yield Check(
            None,
            "power",
            kind,
            'power = { kind = "command", on = [...], off = [...] } (or pdudaemon, ipmi, qemu):'
            " without it a machine that dies stays dead",
        )
        return
    try:
        state = power_for(target).query(Deadline(target.limits.command_s))
    except HarnessError as error:
        yield Check(False, f"power, {kind}", error.what, error.cure)
        return
    told = {True: "on", False: "off", None: "cannot be asked; `lab power NAME cycle` tries it"}
    yield Check(state is not False, f"power, {kind}", told[state], "lab power NAME on")
    yield Check(
        True if target.nmi else None,
        "NMI",
        "its power control can raise one" if target.nmi else "none",
        "power.nmi of the kind command; ipmi and qemu have one: stacks of a machine that hangs",
    )


def standing(dut: Dut) -> Iterator[Check]:
    """What stands by in the boot that `dut` is connected to."""
    guards, target = dut.guards, dut.target
    wanted = {"netconsole": target.netconsole, "watchdog": target.watchdog}
    for name in (name for name, spec in wanted.items() if spec is not None):
        armed = guards.armed.get(name)
        what, cure = guards.absent.get(name, ("", ""))
        yield Check(True if armed else None, name, armed or what, cure)
    if told := guards.armed.get("kdump"):
        yield Check(True, "kdump", told)
    if target.netconsole is not None:
        level = dut.call("run", argv=["cat", _LOGLEVEL])["stdout"].split()
        shown = int(level[0]) if level and level[0].isdigit() else 0
        cmdline = str(dut.facts.get("cmdline", "")).split()
        yield Check(
            True if shown > 6 or "ignore_loglevel" in cmdline else None,
            "what consoles show",
            "everything" if "ignore_loglevel" in cmdline else f"levels below {shown}",
            "boot without `quiet`, or with ignore_loglevel: lockdep's reports are warnings (4)",
        )
