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
from harness.deadline import Deadline
from harness.errors import HarnessError, LabError
from harness.evidence.boot import Boot
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.link.agent import Agent
from harness.link.dial import Stranger
from harness.link.machine import Machine
from harness.link.ssh import Ssh, Unreachable
from harness.live import kdump, pstore
from harness.live.attachment import Attachment
from harness.live.guards import Guards
from harness.live.health import Ailment
from harness.live.ladder import Rung, climb
from harness.live.watch import Death, Watch

__all__ = ["Uplink"]

log = logging.getLogger(__name__)

# Longest wait for a machine that was told to reboot to show the first line of a new boot.
GOING_S = 60.0
# Longest wait for a sign of life on a console.
ANSWER_S = 2.0
# Longest wait for the stacks that an NMI brings.
NMI_S = 3.0
# Documentation/admin-guide/sysrq.rst: blocked tasks, backtraces of all active CPUs, locks held.
STACKS = "wld"
# And all tasks: at a serial line's speed that takes a CPU many seconds, with interrupts off, so it
# is asked only of a machine that is going to be reset.  Longest wait for it, and what ends it.
EVERYTHING, EVERYTHING_S, QUIET_S = "t", 30.0, 2.0


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

    # -- bringing it back ------------------------------------------------------

    def rearm(self) -> None:
        """Make lockdep see again: it stops at its first report until the next boot."""
        self.say(f"{self.target.name}: lockdep is off, rebooting to arm it again")
        self.reboot()

    def reboot(self, *, stranded: Callable[[], None] | None = None) -> None:
        """A new boot: asked for politely, by power where the machine does not answer.

        `stranded` is called before a machine is reset that did not come back by itself.
        """
        old = self.boot_id
        self.run.journal.add("reboot", boot=old)
        at = self.at
        self._booting("reboot")
        try:
            # Not an orderly shutdown: after a deadlock that would wait for ever.
            self.call("run", argv=["sync"], timeout=10)
            # Detached: the agent ends now, and kills what it runs.  The machine may be gone before
            # the reply is.
            at.agent.call("detach", Deadline(2), argv=["reboot", "-f"])
        except HarnessError as error:
            log.info("%s: while rebooting: %s", self.target.name, error.what)
        self._drop()
        self._new_boot()
        self._dead = True  # as good as: what answers now is still the old boot

        def gone(deadline: Deadline) -> None:
            try:
                self._wait_reboot(at.ssh, old, deadline)
            except HarnessError:
                if stranded is not None:
                    stranded()
                raise

        try:
            rungs = [Rung("reboot", self.target.limits.boot_s, gone), *self._rungs(died=False)]
            if failed := climb(rungs, self.run.journal, self.say):
                raise LabError(
                    f"it cannot be rebooted: {failed}",
                    where=self.target.name,
                    cure="see its console; go there",
                )
        finally:
            at.ssh.close()

    def _wait_reboot(self, ssh: Ssh, old: str, deadline: Deadline) -> None:
        """Until it is back.  Raises HarnessError early where its console shows that it does not
        even go down."""
        try:
            ssh.wait_reboot(old, deadline.capped(GOING_S), self._hopeless)
        except Unreachable:
            # On its way, as far as anybody can tell.
            if self._hopeless() or (self._machine.console_tail() and not self._watch.booting):
                raise
            ssh.wait_reboot(old, deadline, self._hopeless)
        self._attach(wait=True)

    def ready(self) -> None:
        """Have a link before a test, and streams that are whole again: of a disk that was full,
        or of another boot where this one's are at their limit."""
        at, full = self._at, self._boot.full and self.target.policy.rearm == "reboot"
        cut = at is not None and (not at.agent.alive or at.recorder.cut)
        if cut or self.trouble() or (self._boot.failed and not full):
            self._drop()
        if self._at is None and not self.unfit:
            self.recover()
        if full and self._at is not None:
            self.say(f"{self.target.name}: no more of this boot can be kept, rebooting")
            self.reboot()

    def recover(self) -> None:
        """After a death: reach it again, by power if need be; `unfit` when nothing helps."""
        self.say(f"{self.target.name}: recovering the target")
        if self.trouble():
            self._drop()
        if self._at is not None:
            return
        self.give_up(climb(self._rungs(), self.run.journal, self.say))

    def give_up(self, why: str) -> None:
        """It cannot be brought back, and `why`: no test runs on it any more.  "": it can."""
        if why:
            self.unfit = f"recovery failed: {why}"
            self.run.journal.add("unfit", reason=self.unfit)
            self.say(f"{self.target.name}: unfit: {why}")

    # -- inside ----------------------------------------------------------------

    def _rungs(self, *, died: bool = True) -> list[Rung]:
        """What may bring a machine back that does not answer, or has a GPU no more; `died`: unless
        it is merely out of reach, it did."""
        seconds = self.target.limits.boot_s
        power = Rung("power", seconds, self._by_power)
        if self.trouble() or self._machine.post_mortem():
            return [power]
        death = self._watch.death
        dumping = died and self._dumps(death)
        rungs = [Rung("reset button", seconds, self._by_button), power]
        if death is None:
            rungs.insert(0, Rung("sysrq", seconds, self._by_sysrq))
            if not self._dead:
                rungs.insert(0, Rung("agent", self.target.limits.stall_s, self._by_agent))
        elif death.kind == "boot" and not dumping:
            rungs.insert(0, Rung("its own reboot", seconds, self._by_itself))
        if dumping:
            # To reset it now is to lose what it writes.
            seconds += self.target.kdump.seconds
            rungs.insert(0, Rung("its crash kernel", seconds, self._by_itself))
        return rungs

    def _dumps(self, death: Death | None) -> bool:
        """Whether its crash kernel may be at work: one stood by, and no console says that the
        machine only hangs."""
        told = death is not None or not self._machine.console_tail()
        return self._dead and told and "kdump" in self.guards.armed

    def _by_sysrq(self, deadline: Deadline) -> None:
        """The kernel's own emergency: sync, remount read-only, boot."""
        if not all(self._sysrq(key) for key in "su"):
            raise LabError("it does not heed sysrq", where=self.target.name, cure="reset it")
        old = self._before[0]
        self._new_boot()
        self._booting("sysrq")
        self._sysrq("b")
        self._renewed(old, deadline, "reset it")

    def _by_agent(self, deadline: Deadline) -> None:
        self._attach(wait=True, seconds=deadline.left())

    def _by_itself(self, deadline: Deadline) -> None:
        self._new_boot()
        self._booting("itself")
        self._attach(wait=True, seconds=max(1.0, deadline.left()))

    def _by_button(self, deadline: Deadline) -> None:
        if not self._machine.reset(deadline):
            raise LabError("it has no reset button", where=self.target.name, cure="cut its power")
        old = self._before[0]
        self._new_boot()
        self._booting("button")
        self._renewed(old, deadline, "is it this machine's button? see power in targets.toml")

    def _by_power(self, deadline: Deadline) -> None:
        old = self._before[0]
        self._new_boot()
        self._booting("power")
        self._machine.cycle(deadline)
        self._renewed(old, deadline, "is it this machine's outlet? see power in targets.toml")

    def _renewed(self, old: str, deadline: Deadline, cure: str) -> None:
        """Attach to what is up, which must not be the `old` boot any more."""
        self._attach(wait=True, seconds=max(1.0, deadline.left()))
        if self.boot_id == old:
            self._drop()
            raise LabError("it is still the old boot", where=self.target.name, cure=cure)

    def _booting(self, how: str) -> None:
        self._watch.over(None)
        self.run.journal.add("booting", how=how)

    def _attach(self, *, wait: bool, seconds: float = 0.0) -> None:
        """Connect to the boot that is up, within `seconds` or the target's own limit; its facts
        are on disk before any test."""
        self.run.journal.add("attaching")
        self._answered = False
        self._at = Attachment(
            self.target,
            self._machine.endpoint(),
            self._boot_for,
            wait=wait,
            seconds=seconds,
            hopeless=self._hopeless,
            before=self._before,
            again=self._boot.boot_id == self._before[0],
        )
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

    def _drop(self) -> None:
        at, self._at = self._at, None
        if at is not None:
            at.drop()

    def _diagnose(self) -> tuple[str, str]:
        """After a broken window: (how the target died, or "") and (what the lab should know)."""
        try:
            died, lab = self._autopsy()
        except HarnessError as error:  # this host's own trouble, on the way
            died, lab = "", f" ({error.what})"
        self._dead = bool(died)
        return died, lab

    def _autopsy(self) -> tuple[str, str]:
        old = self.boot_id
        death = self._watch.death
        # Then it is this host's disk that broke.
        held = self._boot.failed and self._at is not None and self._at.agent.alive
        self._drop()
        if death is not None:
            self._watch.settle()
        self._last_words = self._machine.console_tail()
        gone = self._machine.post_mortem()
        if gone:
            return f"the target died: {gone}", ""
        if death is not None:
            return death.told, ""
        try:
            self._attach(wait=False)
        except Stranger as error:
            self.give_up(error.what)
            return "", f" ({error.what})"
        except HarnessError as error:
            return self._stalled(old, error.what)
        return self._same(old, held)

    def _same(self, old: str, held: bool = False) -> tuple[str, str]:
        """What it means that the machine answers again."""
        if self.boot_id != old:
            return "the target rebooted by itself", ""
        what = "evidence is kept again" if held else "the link broke and came back"
        return "", f" ({what}; same boot)"

    def _stalled(self, old: str, why: str) -> tuple[str, str]:
        """No agent can be had.  While its console or its sshd answers, that is a stall, not a
        death: what all wait for is asked of the kernel, and the link gets time to come back."""
        heeds = self._sysrq(STACKS[0])
        if not (heeds or self._answered or self._machine.answers(Deadline(ANSWER_S))):
            return self._silent(f"the target stopped answering ({why})"), ""
        self.run.journal.add("stall", reason=why)
        lives = "it answers" if self._answered else "its console lives"
        self.say(f"{self.target.name}: out of reach, but {lives}: waiting")
        for key in STACKS[1:]:
            self._sysrq(key)
        try:
            self._attach(wait=True, seconds=self.target.limits.stall_s)
        except Stranger as error:
            self.give_up(error.what)
            return "", f" ({error.what})"
        except HarnessError as error:
            if self._answered and self._boot.boot_id == old:
                return "", f" (it answers, but no agent works there: {error.what})"
            if self._answered:
                return self._same(old)
            death = self._watch.death
            if death is None and self._sysrq(EVERYTHING):
                self._watch.until_quiet(QUIET_S, Deadline(EVERYTHING_S))
            told = f"the target stopped answering, though its console lives ({error.what})"
            return death.told if death else self._silent(told), ""
        return self._same(old)

    def _silent(self, told: str) -> str:
        """How it died, where nobody answers: as `told`, unless more is known by now."""
        gone = self._machine.post_mortem()
        if gone:
            return f"the target died: {gone}"
        self._interrupt()
        return told

    def _interrupt(self) -> None:
        """An NMI, before its power is cut: a hung kernel may tell by it where it stands."""
        try:
            if self._machine.power.nmi(Deadline(ANSWER_S)):
                self.run.journal.add("nmi")
                self._watch.settle(NMI_S)
        except HarnessError as error:
            log.info("%s: NMI: %s", self.target.name, error.what)

    def _sysrq(self, key: str) -> bool:
        """Whether the kernel heeded it."""
        try:
            return self._machine.sysrq(key, Deadline(ANSWER_S))
        except HarnessError as error:
            log.info("%s: sysrq %s: %s", self.target.name, key, error.what)
            return False
