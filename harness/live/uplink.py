"""Uplink: the way to one target, over all its boots.

Brings it up and connects to the boot that is up, whose evidence flows from here on.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from typing import Any

from harness import host
from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence.boot import Boot
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.link.agent import Agent
from harness.link.machine import Machine
from harness.live import kdump, pstore
from harness.live.attachment import Attachment
from harness.live.guards import Guards
from harness.live.health import Ailment
from harness.live.watch import Watch

__all__ = ["Uplink"]


class Uplink:
    """A target, the connection to its current boot, and the run its evidence goes to."""

    def __init__(
        self, target: Target, run: RunDir, machine: Machine, say: Callable[[str], None]
    ) -> None:
        """`say` shows one line of progress to whoever waits."""
        self.target = target
        self.run = run
        self.unfit = ""
        # What the last test left it with, until it is healed (harness/live/healing.py).
        self.ailing: tuple[Ailment, ...] = ()
        self._machine = machine
        self.say = say
        self._boot = Boot(run, target.policy.stream_limit)
        self._at: Attachment | None = None
        self._before = ("", 0)
        # Whether it answered when it was last to be attached to, whatever came of it.
        self._answered = False
        # Whether the last thing known of it is that it died.
        self._dead = False
        self._watch = Watch()
        self._last_words = ""
        self.guards = Guards(target, self._netconsole)

    # -- coming and going ------------------------------------------------------

    def connect(self) -> None:
        """Power up, reach the target, start its agent and its collectors.

        Raises LabError where it cannot be reached, UsageError where it is this very
        machine, TargetError where it lacks what the agent needs.
        """
        self.say(f"{self.target.name}: {self._machine.describe()}")
        self._machine.up(self._console, Deadline(self.target.limits.boot_s), self.run.path)
        self._machine.appear()
        self.guards.open(self._machine.endpoint())
        self._attach(wait=True)
        for remark in self.remarks():
            self.run.journal.add("remark", reason=remark)
            self.say(f"{self.target.name}: {remark}")

    def close(self) -> None:
        """End the agent, which releases what hangs and restores knobs; leave the machine.
        Idempotent.

        The machine is left whatever trouble the steps before make; raises the first.
        """
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._boot.close)
            leaving.callback(self.guards.close)
            leaving.callback(self._machine.down)
            at, self._at = self._at, None
            if at is not None:
                leaving.callback(at.close)

    @property
    def at(self) -> Attachment:
        """The connection to the current boot.  Raises LabError when there is none."""
        if self._at is None:
            raise LabError(
                "not connected", where=self.target.name, cure="see journal.jsonl for what broke"
            )
        return self._at

    @property
    def agent(self) -> Agent:
        """The agent of the current boot.  Raises LabError when there is no connection."""
        return self.at.agent

    @property
    def facts(self) -> dict[str, Any]:
        """What the agent told of this boot: uname, cmdline, config, ..."""
        return self.at.facts

    @property
    def boot_id(self) -> str:
        """The current boot."""
        return self._boot.boot_id

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        """One of the agent's operations within limits.command_s."""
        return self.agent.call(op, Deadline(self.target.limits.command_s), **args)

    def health(self) -> dict[str, Any]:
        """debug_locks (1 armed, 0 off, None: no lockdep in this kernel), taint, boot_id."""
        return self.call("health")

    def last_words(self) -> str:
        """The last console lines before the last death; "" without a console."""
        return self._last_words

    def trouble(self) -> str:
        """What of the lab's own broke under the machine, in words; "" where all is well."""
        return self._machine.trouble()

    def remarks(self) -> list[str]:
        """What else of the lab's own a judge should know, since this was last asked."""
        return [*self._machine.remarks(), *self.guards.remarks()]

    # -- inside ----------------------------------------------------------------

    def _attach(self, *, wait: bool, seconds: float = 0.0) -> None:
        """Connect to the boot that is up, within `seconds` or the target's own limit; its facts
        are on disk before any test."""
        self.run.journal.add("attaching")
        self._answered = False
        at = Attachment(
            self.target,
            self._machine.endpoint(),
            self._boot_for,
            wait=wait,
            seconds=seconds,
            hopeless=self._hopeless,
            before=self._before,
            again=self._boot.boot_id == self._before[0],
        )
        self._adopt(at, same_machine=True)

    def _adopt(self, at: Attachment, *, same_machine: bool) -> None:
        """Work by `at` from now on; on the `same_machine` as the boots before, which may have left
        something there."""
        self._at = at
        if self.boot_id != self._before[0]:
            self.ailing = ()  # of another boot; a new agent on the same one heals nothing
        self._before = self.boot_id, self._at.facts["pid"]
        self._watch.over(self._at.agent)
        self._dead = False
        self.guards.arm(self._at, nmi=self.target.nmi)
        boots = [*self.run.facts().get("boots", [])]
        if self.boot_id not in boots:
            boots.append(self.boot_id)
            limit = self.target.limits.command_s
            if same_machine:
                pstore.collect(self.agent, self.run, boots, Deadline(limit))
                kdump.collect(self.agent, self.run, boots, self.target.kdump, Deadline(limit))
        self.run.journal.add(
            "boot",
            boot=self.boot_id,
            kernel=self.facts["uname"]["release"],
            guards=self.guards.armed,
        )
        if absent := self._at.recorder.absent:
            self.run.journal.add("trace-absent", boot=self.boot_id, reason=absent)
        self.run.update(
            machine=self._machine.facts(),
            kernel=self.facts,
            cards=self._at.cards,
            boots=boots,
            harness={"python": platform.python_version(), "commit": host.commit()},
        )

    def _hopeless(self) -> str:
        """Why it makes no sense to wait for the machine any longer, or ""."""
        death = self._watch.death
        return (
            self._machine.post_mortem() or self._watch.hopeless() or (death.told if death else "")
        )

    def _boot_for(self, boot_id: str) -> Boot:
        self._answered = True
        if self._boot.boot_id not in ("", boot_id) or self._boot.failed:
            self._new_boot()
        if not self._boot.boot_id:
            self._boot.name(boot_id)
        return self._boot

    def _console(self, data: bytes) -> None:
        self._boot.console(data)
        self._watch.console(data)

    def _netconsole(self, data: bytes) -> None:
        self._boot.netconsole(data)
        self._watch.netconsole(data)

    def _new_boot(self) -> None:
        # In this order: what its console and netconsole say meanwhile finds an open stream.
        old, self._boot = self._boot, Boot(self.run, self.target.policy.stream_limit)
        old.close()

    def _leave(self) -> Attachment | None:
        """Work by no attachment any more; what it was."""
        at, self._at = self._at, None
        return at

    def _drop(self) -> None:
        if (at := self._leave()) is not None:
            at.drop()
