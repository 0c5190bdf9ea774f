"""Power by commands of this host: a PDU's client, a relay, curl to a BMC.

Commands are argv lists, exit status 0 means done.  What they say when they fail is
shown without what may be secret in it; their arguments never are.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.secret import hidden

__all__ = ["CommandPower", "execute", "settled"]


class CommandPower:
    """Power through the commands of `spec`."""

    def __init__(self, target: str, spec: ways.CommandPower) -> None:
        self.target = target
        self.spec = spec

    def on(self, deadline: Deadline) -> None:
        self._command(self.spec.on, deadline)

    def off(self, deadline: Deadline) -> None:
        self._command(self.spec.off, deadline)

    def cycle(self, deadline: Deadline) -> None:
        settled(self.target, self.off, self.on, self.spec.settle_s, deadline)

    def query(self, deadline: Deadline) -> bool | None:
        """What the last "on" or "off" among the words says that the query command prints."""
        if self.spec.query is None:
            return None
        words = re.findall(r"\b(on|off)\b", self._command(self.spec.query, deadline), re.IGNORECASE)
        if not words:
            raise LabError(
                f"power command {self.spec.query[0]!r} says neither on nor off",
                where=self.target,
                cure="mend power.query in targets.toml",
            )
        return bool(words[-1].lower() == "on")

    def nmi(self, deadline: Deadline) -> bool:
        if self.spec.nmi is None:
            return False
        self._command(self.spec.nmi, deadline)
        return True

    def _command(self, argv: tuple[str, ...], deadline: Deadline) -> str:
        return execute(self.target, argv, deadline, cure="mend power.* in targets.toml")


def settled(
    target: str,
    off: Callable[[Deadline], object],
    on: Callable[[Deadline], object],
    settle_s: float,
    deadline: Deadline,
) -> None:
    """Off, `settle_s` of darkness, on.  Raises LabError where the deadline is too near."""
    off(deadline)
    # Switched back on before the capacitors are empty, a board may not reset at all.
    if deadline.left() < settle_s:
        on(deadline)
        raise LabError(
            f"{deadline.left():.1f} s left, but power must stay off {settle_s:g} s;"
            " it is on again, perhaps without a reset",
            where=target,
            cure="allow it more time (limits.boot_s), or lower power.settle_s",
        )
    deadline.pause(settle_s)
    on(deadline)


def execute(
    target: str,
    argv: tuple[str, ...],
    deadline: Deadline,
    *,
    env: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
    cure: str,
) -> str:
    """What a command printed.  Raises LabError where it failed or was not done in time."""

    def failed(what: str) -> LabError:
        # Arguments may carry a password; the first word is enough to know which one.
        return LabError(
            f"power command {argv[0]!r}: {what}",
            where=target,
            cure=f"run it by hand on this host; {cure}",
        )

    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.1, deadline.left()),
            env=env,
        )
    except OSError as error:
        raise failed(f"cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise failed(f"not done within {deadline.seconds:g} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        said = hidden(said, *secrets)[-500:]
        raise failed(f"exit status {done.returncode}: {said or '(no output)'}")
    return done.stdout.decode(errors="replace")
