"""Power of a target: on, off, off long enough to count; and the NMI that asks why it hangs.

What switches it is configured (harness.ways); each back end is a file of its own.
A virtual machine is its own power switch (harness.link.qemu).
"""

from __future__ import annotations

from typing import Protocol

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target
from harness.link.power_command import CommandPower
from harness.link.power_ipmi import IpmiPower
from harness.link.power_pdudaemon import PdudaemonPower
from harness.link.power_qemu import QemuPower

__all__ = ["NoPower", "Power", "power_for"]


class Power(Protocol):
    """What can cut a target's power.  Every method raises LabError when it cannot."""

    def on(self, deadline: Deadline) -> None:
        """Power is on when this returns; the machine has yet to boot."""

    def off(self, deadline: Deadline) -> None:
        """Power is off when this returns, whatever the machine was doing."""

    def cycle(self, deadline: Deadline) -> None:
        """Off, a pause long enough for the supply to discharge, on."""

    def query(self, deadline: Deadline) -> bool | None:
        """Whether it is on; None where that cannot be told."""

    def nmi(self, deadline: Deadline) -> bool:
        """Raise a non-maskable interrupt; False where this way has none.

        What the kernel does with it is its own: with kernel.unknown_nmi_panic = 1 it panics
        with the stacks (arch/x86/kernel/nmi.c, unknown_nmi_error()).
        """


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

    def query(self, deadline: Deadline) -> bool | None:
        return None

    def nmi(self, deadline: Deadline) -> bool:
        return False

    def _none(self, way: str) -> LabError:
        return LabError(
            f"cannot switch it {way}: no power control is configured",
            where=self.target,
            cure=f"press its button, or add to [targets.{self.target}]"
            ' power = { kind = "command", on = ["..."], off = ["..."] }',
        )


def power_for(target: Target) -> Power:
    """The power switch of a target with an address, as configured."""
    match target.power:
        case ways.CommandPower() as spec:
            return CommandPower(target.name, spec)
        case ways.PdudaemonPower() as spec:
            return PdudaemonPower(target.name, spec)
        case ways.IpmiPower() as spec:
            return IpmiPower(target.name, spec)
        case ways.QemuPower() as spec:
            return QemuPower(target.name, spec)
        case ways.NoPower():
            return NoPower(target.name)
