"""Tenant: a target that runs a kernel of ours for as long as a session lasts.

Each boot that is asked for is that kernel's again; one that was not (a power cycle after
a death) is the known-good kernel's, and no test is begun on that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import mark_of
from harness.link.boots import boot_for
from harness.live import trial
from harness.live.witness import Witness

__all__ = ["Tenant"]


class Tenant(Witness):
    """A target with its own kernel, or from `lodge` on with one of ours."""

    _kernel: Kernel | None = None
    _staged: Staged | None = None
    # What the agent told of its last boot.
    _told: dict[str, Any] | None = None

    def lodge(self, kernel: Kernel) -> None:
        """Have it run `kernel`, from now on in every boot that a test is begun in.

        Raises UsageError where it boots only what it boots by itself, TargetError where `kernel`
        does not come up, LabError where nothing does.
        """
        self._kernel = kernel
        self.say(f"{self.target.name}: booting {kernel.release}")
        self.reboot()

    def vacate(self) -> None:
        """Have it run its own kernel, where an earlier session left one of ours on it: the first
        reboot of this one would change it, in the middle of the tests.

        Raises LabError where ours comes up again.
        """
        mark = mark_of(self.facts["cmdline"])
        if not mark:
            return
        self.say(f"{self.target.name}: a kernel of ours was left on it ({mark}), booting its own")
        if not isinstance(self.target.boot, ways.AsIsBoot):
            way = boot_for(self.target, self.at.ssh)
            way.home(Deadline(self.target.limits.command_s))
        self.reboot()
        if again := mark_of(self.facts["cmdline"]):
            raise LabError(
                f"still boots a kernel of ours ({again})",
                where=self.target.name,
                cure="see its boot loader: which entry is the default?  To test that kernel:"
                " --boot=DIR",
            )

    def reboot(self, *, stranded: Callable[[], None] | None = None) -> None:
        """As ever; of a target with a kernel of ours, that one is booted.

        Raises TargetError, too, where it does not come up.
        """
        if self._kernel is None:
            super().reboot(stranded=stranded)
            return
        boot_id = self.boot_id
        try:
            self._boot_ours(self._kernel)
        except LabError as error:
            if self._at is None or self.boot_id != boot_id:
                raise
            # Too ill to have a kernel put on it: its own, which needs nothing of it, comes first.
            self.say(f"{self.target.name}: {error.what}")
            super().reboot(stranded=stranded)
            self._boot_ours(self._kernel)

    def _boot_ours(self, kernel: Kernel) -> None:
        way = boot_for(self.target, self.at.ssh)
        self._staged = trial.boot(self, way, kernel, super().reboot)
        self._told = self.facts

    def ready(self) -> None:
        """As ever, and that the kernel under test runs.  One that does not come up a second time
        leaves the target unfit."""
        super().ready()
        if self._kernel is None or self._at is None or self.unfit or self._lodges():
            return
        self.say(f"{self.target.name}: its own kernel runs, booting {self._kernel.release}")
        try:
            self.reboot()
        except TargetError as error:
            self.give_up(error.what)

    def _lodges(self) -> bool:
        staged, mark = self._staged, mark_of(self.facts["cmdline"])
        return staged is not None and mark == staged.id

    def _attach(self, *, wait: bool, seconds: float = 0.0) -> None:
        super()._attach(wait=wait, seconds=seconds)
        if self._told is not None and not self._lodges():
            # What brings it back to life is not what was tested.
            self.run.update(kernel=self._told)
