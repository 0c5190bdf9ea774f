"""What a person at a desk does with a target: look at its console, get a shell, switch it.

Takes the target's reservation like a run does, except to watch a console that a
running session already serves.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.lab.holds import hold
from harness.lab.reservation import Reservation
from harness.link.console import attach, interact
from harness.link.machine import CONSOLE_SOCKET, machine_for, state_dir
from harness.link.power import power_for
from harness.link.ssh import Ssh

__all__ = ["console", "power", "shell"]


def console(target: Target) -> int:
    """Pass this terminal through to the target's console; Ctrl-] ends it."""
    socket = state_dir(target) / CONSOLE_SOCKET
    if Reservation.holder(target.name) is not None and socket.exists():
        return _pass_through(target, socket)
    with hold(target, "lab console", say=_say) as held:
        target = held.target
        machine = machine_for(target, held.now)
        try:
            _say(f"{target.name}: {machine.describe()}")
            # Left by a run that was killed: the reservation says that nobody serves it now.
            socket.unlink(missing_ok=True)
            machine.up(lambda data: None, Deadline(target.limits.boot_s))
            machine.appear()
            if not socket.exists():
                raise LabError(
                    "has no console",
                    where=target.name,
                    cure='console = { kind = "serial", port = "..." } in targets.toml',
                )
            for remark in machine.remarks():
                _say(f"{target.name}: {remark}")
            return _pass_through(target, socket)
        finally:
            machine.down()


def shell(target: Target, argv: Sequence[str]) -> int:
    """An interactive shell, or `argv`, on the target; the exit status of ssh."""
    with hold(target, "lab shell", say=_say) as held, tempfile.TemporaryDirectory() as scratch:
        target = held.target
        machine = machine_for(target, held.now)
        try:
            _say(f"{target.name}: {machine.describe()}")
            deadline = Deadline(target.limits.boot_s if target.virtual else target.limits.connect_s)
            machine.up(lambda data: None, deadline)
            machine.appear()
            endpoint = machine.endpoint()
            # Our own link first: it checks the pinned key, and tells ssh which one that was.
            with Ssh.connect(endpoint, deadline, wait=target.virtual) as link:
                known = Path(scratch) / "known_hosts"
                known.write_text(f"target {link.host_key()}\n")
            key = ["-i", str(endpoint.key)] if endpoint.key else []
            options = {
                "UserKnownHostsFile": str(known),
                "HostKeyAlias": "target",
                "StrictHostKeyChecking": "yes",
                "LogLevel": "ERROR",
            }
            return subprocess.run(
                [
                    "ssh",
                    *key,
                    *(f"-o{name}={value}" for name, value in options.items()),
                    *("-p", str(endpoint.port), f"{endpoint.user}@{endpoint.host}"),
                    *(["--", *argv] if argv else []),
                ]
            ).returncode
        finally:
            machine.down()


def power(target: Target, action: str) -> None:
    """Switch the target `on`, `off`, or `cycle` it; `query` its power, or raise an `nmi` in it.

    Raises LabError where that fails.
    """
    if target.virtual:
        raise UsageError(
            "a virtual target is on for as long as the command that uses it",
            where=target.name,
            cure=f"lab shell {target.name}, lab console {target.name} or lab run",
        )
    with hold(target, f"lab power {target.name} {action}", say=_say) as held:
        switch = power_for(held.target)
        deadline = Deadline(target.limits.boot_s)
        if action == "query":
            state = switch.query(deadline)
            print({True: "on", False: "off", None: "this power control cannot tell"}[state])
        elif action == "nmi":
            if not switch.nmi(deadline):
                raise UsageError(
                    "this power control has no NMI",
                    where=target.name,
                    cure="power.nmi of the kind command; the kinds ipmi and qemu have one",
                )
        else:
            {"on": switch.on, "off": switch.off, "cycle": switch.cycle}[action](deadline)


def _pass_through(target: Target, socket: Path) -> int:
    _say(f"{target.name}: connected, Ctrl-] ends")
    with attach(socket) as tap:
        why = interact(tap)
    _say(f"\r\n{target.name}: {why}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)
