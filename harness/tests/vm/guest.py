"""What tests say to a connected virtual target, and which of its parts they name."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.dut import Dut

__all__ = ["PATIENCE_S", "agent_file", "engine_of", "nodes", "put", "run", "sh"]

# Seconds; generous, for an overloaded machine under emulation.
PATIENCE_S = 120.0


def run(
    sim: Dut, *argv: str, stdin: str = "", patience_s: float = PATIENCE_S
) -> tuple[int | None, str]:
    """Status and all output of a command on the target; None when it had to be killed."""
    deadline = Deadline(patience_s)
    done = sim.agent.call("run", deadline, argv=argv, stdin=stdin, timeout=patience_s - 5)
    return done["status"], done["stdout"] + done["stderr"]


def sh(sim: Dut, script: str) -> str:
    """What a shell script printed there; it must succeed."""
    status, output = run(sim, "sh", "-euc", script)
    assert status == 0, output
    return output


def put(sim: Dut, path: str, text: str) -> None:
    """A file there, in a directory that need not exist yet."""
    script = 'mkdir -p "$(dirname "$0")" && cat > "$0"'
    assert run(sim, "sh", "-c", script, path, stdin=text) == (0, "")


def agent_file(sim: Dut) -> str:
    """Where the agent lies, whose modules a program there may import."""
    argv = sh(sim, "tr '\\0' '\\n' < /proc/$PPID/cmdline").splitlines()
    return argv[argv.index("serve") - 1]


def engine_of(sim: Dut, ip: str) -> Engine:
    """The first ring of a kind."""
    return next(engine for engine in sim.engines() if engine.ip == ip)


def nodes(sim: Dut) -> list[str]:
    """The DRM nodes, once udev has made what is to come."""
    return sh(sim, "udevadm settle; find /dev -path '/dev/dri/*' -type c | sort").split()
