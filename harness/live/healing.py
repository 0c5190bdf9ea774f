"""Healing: an ailing target is made fit for the next test, by the gentlest way that helps.

A GPU that a canary finds well needs nothing, nor does a task that moves again; else the
driver is bound anew, and what that does not cure is left to a new boot.
"""

from __future__ import annotations

from base64 import b64encode

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.live.dut import Dut
from harness.live.health import ailments
from harness.live.ladder import Rung, climb

__all__ = ["heal"]

# For a driver to let go of its device, and for all engines' canaries.
_REBIND_S = 120.0
# For who slept at two looks: a slow disk keeps a writer asleep for long. And between two looks.
_MOVE_S, _LOOK_S = 20.0, 1.0


def heal(dut: Dut) -> None:
    """Make `dut` fit, or unfit for good: see `dut.unfit`."""
    told = "; ".join(ailment.text for ailment in dut.ailing)
    who = {ailment.of for ailment in dut.ailing}
    stuck = {ailment.text for ailment in dut.ailing if ailment.of == "task"}
    dut.ailing = ()
    dut.run.journal.add("ailing", reason=told)

    def canary(deadline: Deadline) -> None:
        _canary(dut)

    def rebind(deadline: Deadline) -> None:
        _rebind(dut, deadline)
        _canary(dut)

    def look(deadline: Deadline) -> None:
        while stuck & {ailment.text for ailment in ailments({}, dut.health(), "", [])}:
            if not deadline.pause(_LOOK_S):
                raise TargetError("they sleep on", where=dut.target.name, cure="reboot it")

    def reboot(deadline: Deadline) -> None:
        dut.reboot()

    rungs = [Rung("reboot", dut.target.limits.boot_s, reboot)]
    if who == {"task"}:
        rungs.insert(0, Rung("second look", _MOVE_S, look))
    if who == {"gpu"}:
        rungs = [
            Rung("canary", _REBIND_S, canary),
            Rung("driver rebind", _REBIND_S, rebind),
            *rungs,
        ]
    dut.give_up(climb(rungs, dut.run.journal, dut.say))


def _canary(dut: Dut) -> None:
    """Raises TargetError where an engine does no work."""
    dut.forget_engines()
    engines = dut.engines()
    with dut.client() as client:
        for engine in engines:
            canary = client.canary(engine)
            if not canary.ok:
                raise TargetError(
                    f"canary on {engine.name}: {canary}",
                    where=dut.target.name,
                    cure="reset the GPU",
                )


def _rebind(dut: Dut, deadline: Deadline) -> None:
    """Take the driver off the card, and put it back.  Raises TargetError."""
    pci = dut.card["pci"]
    if not pci:
        raise TargetError("is no PCI device", where=dut.target.name, cure="reboot it")
    for verb in ("unbind", "bind"):
        dut.agent.call(
            "write",
            deadline,
            path=f"/sys/bus/pci/drivers/{dut.target.driver}/{verb}",
            data=b64encode(f"{pci}\n".encode()).decode(),
            seconds=max(0.1, deadline.left() * 0.9),
        )
