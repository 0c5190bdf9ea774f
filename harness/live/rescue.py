"""Rescue: how a target died, and how it is brought back.

A broken link is told from a stall and a stall from a death, while the kernel can still be
asked; then the gentlest way that helps leads back to a boot in which lockdep sees.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.link.dial import Stranger
from harness.link.machine import Machine
from harness.link.ssh import Ssh, Unreachable
from harness.live.ladder import Rung, climb
from harness.live.spare import Life, Spare
from harness.live.uplink import Uplink
from harness.live.watch import Death

__all__ = ["Rescue"]

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


class Rescue(Uplink):
    """A target that is reached again after it died, and made to see again."""

    def __init__(
        self, target: Target, run: RunDir, machine: Machine, say: Callable[[str], None]
    ) -> None:
        """As Uplink's."""
        super().__init__(target, run, machine, say)
        # Booted beside it, where it may have one.
        self.spare: Spare | None = None

    def connect(self) -> None:
        """As Uplink's; a machine that may have a spare gets it."""
        super().connect()
        if self.target.policy.rearm == "reboot":
            self._keep_spare()

    def close(self) -> None:
        """As Uplink's, and leave the spare."""
        with contextlib.ExitStack() as leaving:
            leaving.callback(super().close)
            if self.spare is not None:
                leaving.callback(self.spare.close)

    def inquire(self) -> str:
        """How it died, with no window open; "" where it did not, as far as anybody can tell."""
        died, _ = self._diagnose()
        if died:
            self.run.journal.add("died-between", boot=self._before[0], reason=died)
        return died

    def rearm(self) -> None:
        """Make lockdep see again: it stops at its first report until the next boot."""
        if self._go_over():
            return
        self.say(f"{self.target.name}: lockdep is off, rebooting to arm it again")
        self.reboot()

    def _go_over(self) -> bool:
        """To the spare, in whose boot lockdep is armed; whether that could be done."""
        spare = self.spare
        if spare is None:
            return False
        began, ready = time.monotonic(), spare.ready
        old = Life(self._machine, self._boot, self._watch, self.at)
        self.say(f"{self.target.name}: lockdep is off, going over to the spare")
        try:
            new = spare.take(Deadline(self.target.limits.boot_s))
        except HarnessError as error:
            self.run.journal.add("spare-failed", reason=str(error))
            self.say(f"{error.where}: {error.what}")
            spare.close()
            self.spare = None
            self._keep_spare()
            return False
        self.spare = None
        try:
            self._leave()
            # Off before the other takes its place: what it still says belongs to its own boot.
            old.machine.hear(old.boot.console)
            old.machine.down()
            self._machine, self._boot, self._watch, at = new
            self._machine.hear(self._console)
            self._machine.appear()
            self._adopt(at, same_machine=False)
        finally:
            self._keep_spare(old.end)
        seconds = round(time.monotonic() - began, 3)
        self.run.journal.add("spare", boot=self.boot_id, ready=ready, seconds=seconds)
        return True

    def _keep_spare(self, before: Callable[[], object] = lambda: None) -> None:
        """Have one where the machine can have one, started after `before`."""
        twin = self._machine.twin()
        if twin is None:
            before()
        else:
            self.spare = Spare(twin, self.target, self.run, before)

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

    # -- the ladder ------------------------------------------------------------

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

    # -- how it died ------------------------------------------------------------

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
            # A kernel's own watchdog may take longer than ours.
            death = self._watch.death
            return (self._panicked(death), "") if death else self._stalled(old, error.what)
        return self._same(old, held)

    def _panicked(self, death: Death) -> str:
        """How it died, with all that it said of it."""
        self._watch.settle()
        self._last_words = self._machine.console_tail()
        return death.told

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
            if death is not None:
                return self._panicked(death), ""
            if self._sysrq(EVERYTHING):
                self._watch.until_quiet(QUIET_S, Deadline(EVERYTHING_S))
            told = f"the target stopped answering, though its console lives ({error.what})"
            return self._silent(told), ""
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
