"""What tests say to a connected virtual target, and which of its parts they name."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.dut import Dut
from harness.gpu.base import Engine

__all__ = ["PATIENCE_S", "engine_of", "nodes", "run", "sh"]

# Seconds; generous, for an overloaded machine under emulation.
PATIENCE_S = 120.0


def run(sim: Dut, *argv: str) -> tuple[int | None, str]:
    """Status and all output of a command on the target; None when it had to be killed."""
    deadline = Deadline(PATIENCE_S)
    done = sim.agent.call("run", deadline, argv=argv, timeout=PATIENCE_S - 5)
    return done["status"], done["stdout"] + done["stderr"]


def sh(sim: Dut, script: str) -> str:
    """What a shell script printed there; it must succeed."""
    status, output = run(sim, "sh", "-euc", script)
    assert status == 0, output
    return output


def engine_of(sim: Dut, ip: str) -> Engine:
    """The first ring of a kind."""
    return next(engine for engine in sim.engines() if engine.ip == ip)


def nodes(sim: Dut) -> list[str]:
    """The DRM nodes, once udev has made what is to come."""
    return sh(sim, "udevadm settle; find /dev -path '/dev/dri/*' -type c | sort").split()
