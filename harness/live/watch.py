"""Watch: who sees a machine die first.

Reads along on the console for a panic or a boot that nobody asked for; what it sees ends
the link at once, so that whoever waits for the agent does not wait for its silence.
"""

from __future__ import annotations

import threading
import time
from typing import Literal, NamedTuple

from harness.deadline import Deadline
from harness.kernel.omens import Omen, Omens
from harness.link.agent import Agent

__all__ = ["Death", "Watch"]

# An agent that is heard of so long after the omen lives: somebody printed an old log there.
GRACE_S = 0.7
# It beats every second (harness/agent/server.py); this much silence after an omen is death.
CONFIRM_S = 2.0
# A boot so long after a panic is that panic's, even where the agent was heard of meanwhile.
REBOOT_S = 60.0
# Longest wait for the rest of what a dying kernel prints.
SETTLE_S = 5.0
# Panics and boots of a machine that comes up after which it is not going to.
PANICS, BOOTS = 2, 4


class Death(NamedTuple):
    """What the console said: how the machine died, and in which words."""

    kind: Literal["panic", "boot"]
    text: str

    @property
    def told(self) -> str:
        """As a verdict says it."""
        if self.kind == "panic":
            return f"the kernel panicked: {self.text}"
        return "the target rebooted by itself"


class Watch:
    """Follows one console over all boots.  `console` may be called on any thread."""

    def __init__(self) -> None:
        self._omens, self._remote = Omens(), Omens()
        self._changed = threading.Condition()
        self._agent: Agent | None = None
        self._suspected: tuple[Death, float] | None = None
        self._ended = False
        self._panics: list[str] = []
        self._boots = 0
        self._halted = ""
        self._gone = False
        # When anything came from anywhere.
        self._heard = 0.0

    def over(self, agent: Agent | None) -> None:
        """Watch over `agent`; None: the machine is down, or on its way up."""
        with self._changed:
            self._agent = agent
            self._suspected, self._ended = None, False
            self._panics, self._boots, self._halted, self._gone = [], 0, "", False

    def console(self, data: bytes) -> None:
        """What came from the console; it is on disk already."""
        self._heard = time.monotonic()
        for omen in self._omens.feed(data):
            self._heed(omen)

    def netconsole(self, data: bytes) -> None:
        """The same of netconsole's."""
        self._heard = time.monotonic()
        for omen in self._remote.feed(data):
            self._heed(omen)

    @property
    def death(self) -> Death | None:
        """How the machine that was watched over died, where its console told; unless the agent
        was heard of since."""
        with self._changed:
            if self._agent is None or self._suspected is None:
                return None
            told, when = self._suspected
            return told if self._agent.heard <= when + GRACE_S else None

    def settle(self, seconds: float = SETTLE_S) -> None:
        """Until a dying kernel has said its last word."""
        deadline = Deadline(seconds)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, deadline.left())

    def until_quiet(self, seconds: float, deadline: Deadline) -> None:
        """Until nothing has come for so long, or the deadline."""
        asked = time.monotonic()
        while (left := max(self._heard, asked) + seconds - time.monotonic()) > 0:
            if not deadline.pause(left):
                return

    @property
    def booting(self) -> bool:
        """Whether the machine has gone down, or begun to boot, since nobody was watched over: its
        firmware may take minutes."""
        with self._changed:
            return self._gone or self._boots > 0

    def hopeless(self) -> str:
        """Why a machine on its way up will not come, or ""."""
        with self._changed:
            if self._halted and self._agent is None:
                return f"its kernel panics while it boots, and stands still: {self._halted}"
            if len(self._panics) >= PANICS:
                return f"its kernel panics while it boots: {self._panics[-1]}"
            if self._boots >= BOOTS:
                return f"it reboots again and again: {self._boots} times now"
        return ""

    def _heed(self, omen: Omen) -> None:
        with self._changed:
            agent = self._agent
            self._ended |= omen.kind in ("panic-end", "halt", "boot")
            if omen.kind == "panic":
                if agent is None:  # of a machine on its way up; else `death` judges it
                    self._panics.append(omen.text)
            elif omen.kind == "boot":
                self._boots += 1
            elif omen.kind == "halt":
                self._halted = omen.text
                self._changed.notify_all()
                return
            else:
                self._gone |= omen.kind == "restart"
                self._changed.notify_all()
                return
            self._changed.notify_all()
            if agent is None or (self.death is not None and omen.kind == "boot"):
                return  # the boot that follows a panic says nothing new
            now = time.monotonic()
            told = Death("panic" if omen.kind == "panic" else "boot", omen.text)
            if self._suspected is not None and omen.kind == "boot":
                before, when = self._suspected
                told = before if before.kind == "panic" and now <= when + REBOOT_S else told
            self._suspected = told, now
        threading.Thread(target=self._confirm, args=(agent,), name="watch", daemon=True).start()

    def _confirm(self, agent: Agent) -> None:
        time.sleep(CONFIRM_S)
        death = self.death
        if death is not None and self._agent is agent:
            agent.lose(death.told)
