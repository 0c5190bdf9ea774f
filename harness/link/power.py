"""Power of a target: on, off, and off long enough to count.

Commands are argv lists run on this host; exit status 0 means done.  A virtual
machine is its own power switch (harness.link.qemu).
"""

from __future__ import annotations

import subprocess
from typing import Protocol

from harness import inventory
from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target

__all__ = ["CommandPower", "NoPower", "Power", "power_for"]


class Power(Protocol):
    """What can cut a target's power.  Every method raises LabError when it cannot."""

    def on(self, deadline: Deadline) -> None:
        """Power is on when this returns; the machine has yet to boot."""

    def off(self, deadline: Deadline) -> None:
        """Power is off when this returns, whatever the machine was doing."""

    def cycle(self, deadline: Deadline) -> None:
        """Off, a pause long enough for the supply to discharge, on."""


class NoPower:
    """Nobody can cut this target's power but a person."""

    def __init__(self, target: str) -> None:
        self.target = target

    def on(self, deadline: Deadline) -> None:
        raise self._none("on")

    def off(self, deadline: Deadline) -> None:
        raise self._none("off")

    def cycle(self, deadline: Deadline) -> None:
        raise self._none("off and on")

    def _none(self, way: str) -> LabError:
        return LabError(
            f"cannot switch it {way}: no power control is configured",
            where=self.target,
            cure=f"press its button, or add to [targets.{self.target}]"
            ' power = { kind = "command", on = ["..."], off = ["..."] }',
        )


class CommandPower:
    """Power through two commands of this host (a PDU's client, ipmitool, a relay)."""

    def __init__(self, target: str, spec: inventory.CommandPower) -> None:
        self.target = target
        self.spec = spec

    def on(self, deadline: Deadline) -> None:
        self._command(self.spec.on, deadline)

    def off(self, deadline: Deadline) -> None:
        self._command(self.spec.off, deadline)

    def cycle(self, deadline: Deadline) -> None:
        self.off(deadline)
        # Switched back on before the capacitors are empty, a board may not reset at all.
        if deadline.left() < self.spec.settle_s:
            self.on(deadline)
            raise LabError(
                f"{deadline.left():.1f} s left, but power must stay off {self.spec.settle_s:g} s;"
                " it is on again, perhaps without a reset",
                where=self.target,
                cure="allow it more time (limits.boot_s), or lower power.settle_s",
            )
        deadline.pause(self.spec.settle_s)
        self.on(deadline)

    def _command(self, argv: tuple[str, ...], deadline: Deadline) -> None:
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=max(0.1, deadline.left()),
            )
        except OSError as error:
            raise self._failed(argv, f"cannot be started: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise self._failed(argv, f"not done within {deadline.seconds:g} s") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            raise self._failed(argv, f"exit status {done.returncode}: {said or '(no output)'}")

    def _failed(self, argv: tuple[str, ...], what: str) -> LabError:
        # Arguments may carry a password; the first word is enough to know which one.
        return LabError(
            f"power command {argv[0]!r}: {what}",
            where=self.target,
            cure="run it by hand on this host; mend power.on / power.off in targets.toml",
        )


def power_for(target: Target) -> Power:
    """The power switch of a target with an address, as configured."""
    if isinstance(target.power, inventory.CommandPower):
        return CommandPower(target.name, target.power)
    return NoPower(target.name)
