"""Spare: a second machine of a target's, booted and attached to while the first is tested.

Lockdep is armed there already, in a boot of its own with its own streams; a target that
must see again goes over to it at once, instead of waiting for a reboot.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence.boot import Boot
from harness.evidence.files import disk_error
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.link.machine import Machine
from harness.live.attachment import Attachment
from harness.live.watch import Watch

__all__ = ["Life", "Spare"]


class Life(NamedTuple):
    """One machine with all that is of its current boot."""

    machine: Machine
    boot: Boot
    watch: Watch
    at: Attachment

    def end(self) -> None:
        """Leave it: nothing that it says from now on is evidence.  Raises the first trouble, when
        all is done."""
        with contextlib.ExitStack() as leaving:
            leaving.callback(self.boot.close)
            leaving.callback(self.at.drop)
            leaving.callback(self.machine.down)


class Spare:
    """A machine on its way up, or up and waiting."""

    def __init__(
        self, machine: Machine, target: Target, run: RunDir, before: Callable[[], object]
    ) -> None:
        """Start it, after `before`, both in a thread of their own."""
        self._machine = machine
        self._target = target
        self._run = run
        self._watch = Watch()
        self._closing = False
        # Set once the machine is on, or never will be.
        self._on = threading.Event()
        self._switching = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "spare")
        self._life: Future[Life] = self._thread.submit(self._bring_up, before)

    @property
    def ready(self) -> bool:
        """Whether there is nothing to be waited for any more."""
        return self._life.done()

    def take(self, deadline: Deadline) -> Life:
        """It is the caller's now.  Waits for one that still boots.

        Raises LabError where it cannot be used, or HarnessError for what kept it from coming up;
        then it is still to be closed.
        """
        where = f"the spare of {self._target.name}"
        try:
            life = self._life.result(max(0.1, deadline.left()))
        except TimeoutError as error:
            what = "it is still on its way up"
            raise LabError(what, where=where, cure="see its boot-pending-*") from error
        why = self._hopeless()
        if not why and (life.boot.failed or life.at.recorder.cut):
            why = "its streams were cut"
        if not why and life.at.agent.call("health", deadline)["debug_locks"] == 0:
            why = "lockdep is off there, too"
        if why:
            raise LabError(why, where=where, cure=f"see {life.boot.path.name}/console.log")
        self._thread.shutdown(wait=False)
        return life

    def close(self) -> None:
        """Give up one that was not taken, wherever it is on its way.  Idempotent."""
        self._closing = True
        self._on.wait()
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._thread.shutdown)
            leaving.callback(self._end)
            leaving.callback(self._off)

    def _off(self) -> None:
        """Its power; asked for by whoever gives it up, on its own thread or another."""
        with self._switching:
            self._machine.down()

    def _end(self) -> None:
        """Once its machine is off."""
        if self._life.exception() is None:
            self._life.result().end()

    def _bring_up(self, before: Callable[[], object]) -> Life:
        try:
            before()
            boot = Boot(self._run, self._target.policy.stream_limit)
            with contextlib.ExitStack() as undo:
                undo.callback(boot.close)
                # One that does not come up takes no processor from the tests.
                undo.callback(self._off)
                at = self._attach(boot)
                undo.pop_all()
        except OSError as error:
            raise disk_error(self._run.path, error) from error
        finally:
            self._on.set()
        return Life(self._machine, boot, self._watch, at)

    def _attach(self, boot: Boot) -> Attachment:
        def console(data: bytes) -> None:
            boot.console(data)
            self._watch.console(data)

        def boot_for(boot_id: str) -> Boot:
            boot.name(boot_id)
            return boot

        limit = Deadline(self._target.limits.boot_s)
        self._machine.up(console, limit, self._run.path)
        self._on.set()
        endpoint, doubt = self._machine.endpoint(), self._hopeless
        at = Attachment(self._target, endpoint, boot_for, wait=True, hopeless=doubt)
        self._watch.over(at.agent)
        return at

    def _hopeless(self) -> str:
        """Why nothing will come of it, or ""."""
        if self._closing:
            return "it is not wanted any more"
        death = self._watch.death
        return (
            self._machine.post_mortem() or self._watch.hopeless() or (death.told if death else "")
        )
