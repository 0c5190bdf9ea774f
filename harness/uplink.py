"""Uplink: the way to one target, over all its boots and deaths.

Brings it up, connects to the boot that is up, starts a new one when asked, and
says how the last one ended.  The evidence of each boot flows from here on.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable
from typing import Any

from harness import host
from harness.attachment import Attachment
from harness.deadline import Deadline
from harness.errors import HarnessError, LabError
from harness.evidence.boot import Boot
from harness.evidence.rundir import RunDir
from harness.guards import Guards
from harness.inventory import Target
from harness.link.agent import Agent
from harness.link.machine import Machine

__all__ = ["Uplink"]

log = logging.getLogger(__name__)


class Uplink:
    """A target, the connection to its current boot, and the run its evidence goes to."""

    def __init__(
        self, target: Target, run: RunDir, machine: Machine, say: Callable[[str], None]
    ) -> None:
        """`say` shows one line of progress to whoever waits."""
        self.target = target
        self.run = run
        self.unfit = ""
        self._machine = machine
        self._say = say
        self._boot = Boot(run, target.policy.stream_limit)
        self._at: Attachment | None = None
        self._last_words = ""
        self._guards = Guards(target, self._netconsole)

    # -- coming and going ------------------------------------------------------

    def connect(self) -> None:
        """Power up, reach the target, start its agent and its collectors.

        Raises LabError where it cannot be reached, UsageError where it is this very
        machine, TargetError where it lacks what the agent needs.
        """
        self._say(f"{self.target.name}: {self._machine.describe()}")
        self._machine.up(self._console, Deadline(self.target.limits.boot_s), self.run.path)
        self._guards.open(self._machine.endpoint())
        self._attach(wait=True)
        for remark in self.remarks():
            self.run.journal.add("remark", reason=remark)
            self._say(f"{self.target.name}: {remark}")

    def close(self) -> None:
        """End the agent, which releases what hangs and restores knobs; leave the machine.
        Idempotent.

        The machine is left whatever trouble the steps before make; raises the first.
        """
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._boot.close)
            leaving.callback(self._guards.close)
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
        return [*self._machine.remarks(), *self._guards.remarks()]

    # -- bringing it back ------------------------------------------------------

    def rearm(self) -> None:
        """Make lockdep see again: it stops at its first report until the next boot."""
        self._say(f"{self.target.name}: lockdep is off, rebooting to arm it again")
        self.reboot()

    def reboot(self) -> None:
        """A new boot: asked for politely, by power where the machine does not answer."""
        old = self.boot_id
        self.run.journal.add("reboot", boot=old)
        at = self.at
        try:
            # Not an orderly shutdown: after a deadlock that would wait for ever.
            self.call("run", argv=["sync"], timeout=10)
            # It does not answer: it is gone before its reply is.
            at.agent.call("run", Deadline(2), argv=["reboot", "-f"])
        except HarnessError as error:
            log.info("%s: while rebooting: %s", self.target.name, error.what)
        self._drop()
        self._new_boot()
        try:
            at.ssh.wait_reboot(old, Deadline(self.target.limits.boot_s))
        except HarnessError:
            self._machine.cycle(Deadline(self.target.limits.boot_s))
        finally:
            at.ssh.close()
        self._attach(wait=True)

    def recover(self) -> None:
        """After a death: reach it again, by power if need be; `unfit` when nothing helps."""
        self._say(f"{self.target.name}: recovering the target")
        try:
            if self.trouble():
                self._drop()
            if self._at is None:
                self._new_boot()
                self._machine.cycle(Deadline(self.target.limits.boot_s))
                self._attach(wait=True)
        except HarnessError as error:
            self.unfit = f"recovery failed: {error.what}"
            self.run.journal.add("unfit", reason=self.unfit)
            self._say(f"{self.target.name}: unfit: {error}")

    # -- inside ----------------------------------------------------------------

    def _attach(self, *, wait: bool) -> None:
        """Connect to the boot that is up; its facts are on disk before any test."""
        self._at = Attachment(self.target, self._machine.endpoint(), self._boot_for, wait=wait)
        self._guards.arm(self._at, nmi=self.target.nmi)
        boots = [*self.run.facts().get("boots", [])]
        if self.boot_id not in boots:
            boots.append(self.boot_id)
        self.run.journal.add(
            "boot",
            boot=self.boot_id,
            kernel=self.facts["uname"]["release"],
            guards=self._guards.armed,
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

    def _boot_for(self, boot_id: str) -> Boot:
        if self._boot.boot_id not in ("", boot_id):
            self._new_boot()
        if not self._boot.boot_id:
            self._boot.name(boot_id)
        return self._boot

    def _console(self, data: bytes) -> None:
        self._boot.console(data)

    def _netconsole(self, data: bytes) -> None:
        self._boot.netconsole(data)

    def _new_boot(self) -> None:
        self._boot.close()
        self._boot = Boot(self.run, self.target.policy.stream_limit)

    def _drop(self) -> None:
        at, self._at = self._at, None
        if at is not None:
            at.drop()

    def _diagnose(self) -> tuple[str, str]:
        """After a broken window: (how the target died, or "") and (what the lab should know)."""
        old = self.boot_id
        self._drop()
        self._last_words = self._machine.console_tail()
        gone = self._machine.post_mortem()
        if gone:
            return f"the target died: {gone}", ""
        try:
            self._attach(wait=False)
        except HarnessError as error:
            return f"the target stopped answering ({error.what})", ""
        if self.boot_id != old:
            return "the target rebooted by itself", ""
        return "", " (the link broke and came back; same boot)"
