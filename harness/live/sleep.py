"""Suspend to idle: a target falls asleep and is woken by its own clock.

Documentation/admin-guide/pm/sleep-states.rst; rtcwake(8) sets the alarm and writes the state.
"""

from __future__ import annotations

from base64 import b64decode

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent

__all__ = ["Sleep"]

_STATE = "/sys/power/state"
_ALARM = "/sys/class/rtc/rtc0/wakealarm"


class Sleep:
    """What a target can do of it."""

    def __init__(self, agent: Agent, limit_s: float) -> None:
        """`limit_s` bounds one step, and is what the target is given to fall asleep and wake."""
        self._agent = agent
        self._limit_s = limit_s

    def refusal(self) -> str:
        """Why the target cannot sleep and wake by itself, or ""."""
        try:
            states = self._read(_STATE).split()
        except TargetError:
            return "this kernel cannot suspend: CONFIG_SUSPEND is not set"
        if "freeze" not in states:
            return f"this kernel cannot suspend to idle, only: {' '.join(states) or 'nothing'}"
        try:
            self._read(_ALARM)
        except TargetError as error:
            return f"nothing would wake the target: {error}"
        return ""

    def sleep(self, seconds: float) -> None:
        """Fall asleep for about `seconds`.  Raises TargetError where the kernel would not."""
        argv = ["rtcwake", "-m", "freeze", "-s", f"{seconds:.0f}"]
        patience = seconds + self._limit_s
        done = self._agent.call("run", Deadline(patience + 10), argv=argv, timeout=patience)
        if done["status"] != 0:
            raise TargetError(
                f"did not sleep: {(done['stdout'] + done['stderr']).strip() or done}",
                where=_STATE,
                cure="see the kernel log for what refused to suspend",
            )

    def _read(self, path: str) -> str:
        reply = self._agent.call("read", Deadline(self._limit_s), path=path)
        return b64decode(reply["data"]).decode().strip()
