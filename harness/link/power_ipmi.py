"""Power of a machine with a BMC: ipmitool over the LAN.

The password goes into ipmitool's environment (its -E), never onto a command line;
a BMC only accepts a command, so what it was told to do is waited for.
"""

from __future__ import annotations

import os

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.power_command import execute, settled
from harness.link.secret import password
from harness.ways import Bmc

__all__ = ["IpmiPower", "arguments", "environment"]

# Seconds between looks at a BMC; the slow ones need one to answer.
_LOOK_S = 0.5


class IpmiPower:
    """Chassis power of the BMC of `spec`."""

    def __init__(self, target: str, spec: ways.IpmiPower) -> None:
        self.target = target
        self.spec = spec

    def on(self, deadline: Deadline) -> None:
        self._until(True, deadline)

    def off(self, deadline: Deadline) -> None:
        self._until(False, deadline)

    def cycle(self, deadline: Deadline) -> None:
        # Not the chassis' own "cycle": how long that stays off is the BMC's to know, and one
        # that is off it refuses.
        settled(self.target, self.off, self.on, self.spec.settle_s, deadline)

    def query(self, deadline: Deadline) -> bool | None:
        said = self._chassis("status", deadline)
        for way, state in (("is on", True), ("is off", False)):
            if way in said.lower():
                return state
        raise LabError(
            f"the BMC does not tell its power: {said.strip()[:200]!r}",
            where=self.target,
            cure="ask it by hand: ipmitool -H HOST ... chassis power status",
        )

    def nmi(self, deadline: Deadline) -> bool:
        self._chassis("diag", deadline)
        return True

    def _until(self, on: bool, deadline: Deadline) -> None:
        self._chassis("on" if on else "off", deadline)
        while self.query(deadline) is not on:
            if not deadline.pause(_LOOK_S):
                raise LabError(
                    f"told to switch {'on' if on else 'off'}, the BMC has not within"
                    f" {deadline.seconds:g} s",
                    where=self.target,
                    cure="see the BMC's event log: ipmitool -H HOST ... sel list",
                )

    def _chassis(self, word: str, deadline: Deadline) -> str:
        secret = password(self.spec, self.target)
        return execute(
            self.target,
            (*arguments(self.spec), "chassis", "power", word),
            deadline,
            env=environment(secret),
            secrets=(secret,),
            cure="is ipmitool installed, and IPMI over LAN enabled in the BMC?",
        )


def arguments(bmc: Bmc) -> tuple[str, ...]:
    """ipmitool and what it must know of `bmc`, up to the command."""
    return (
        *("ipmitool", "-I", bmc.interface, "-H", bmc.host, "-p", str(bmc.port), "-E"),
        *(("-U", bmc.user) if bmc.user else ()),
        *(("-C", str(bmc.cipher)) if bmc.cipher is not None else ()),
    )


def environment(secret: str) -> dict[str, str]:
    """Ours, with the password where ipmitool looks for it."""
    return {**os.environ, "IPMI_PASSWORD": secret, "IPMITOOL_PASSWORD": secret}
