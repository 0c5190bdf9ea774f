"""The targets of one session: each connected at first use, each in a run of its own.

A target that cannot be reached is remembered with its reason; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from harness.errors import HarnessError, LabError, UsageError
from harness.evidence.files import RESERVE, reserve
from harness.evidence.rundir import RunDir
from harness.inventory import Inventory, Target
from harness.lab.holds import Hold, hold
from harness.lab.resume import close_guilty, guilty, newest
from harness.link import built
from harness.link.boot import Kernel
from harness.link.boots import bootable
from harness.link.machine import machine_for
from harness.live.dut import Dut
from harness.verdict import recorded

__all__ = ["Fleet"]


class Fleet:
    """Connected targets by name."""

    def __init__(
        self,
        inventory: Inventory,
        names: list[str],
        runs: Path,
        resume: list[Path],
        command: str,
        say: Callable[[str], None],
        *,
        dangerous: bool = False,
        night: str = "",
        wait_s: float = 0.0,
        kernel: str = "",
        boot: Path | None = None,
    ) -> None:
        """`command` is shown to whoever else wants one of the targets; `dangerous` as Dut's;
        `night` names the nightly that the runs are of, "" by hand; `wait_s`: how long to wait
        for whoever holds a target; `kernel`: a pattern of the release that it must run;
        `boot`: the directory of a kernel that all are to be tested with."""
        self.targets: dict[str, Target] = {name: inventory.get(name) for name in names}
        self.runs: dict[str, RunDir] = {}
        self._root = runs
        self._command = command
        self._say = say
        self._dangerous = dangerous
        self._night = night
        self._wait_s = wait_s
        self._kernel = kernel
        self._boot: Kernel | None = None
        # As run.json says it, for who runs a test again.
        self._booted = ""
        if boot is not None:
            boot = boot.expanduser().absolute()
            self._booted = str(boot)
            for target in self.targets.values():
                bootable(target)
            self._boot = built.from_directory(boot)
        named = [path for path in resume if path != Path()]
        self._resume = {self._target_of(path): path for path in named}
        if len(named) < len(resume):
            self._resume = {name: newest(runs, name) for name in names} | self._resume
        self._duts: dict[str, Dut] = {}
        self._broken: dict[str, HarnessError] = {}
        self._locks: dict[str, Hold] = {}

    def dut(self, name: str) -> Dut:
        """The connected target.  Raises what its first connection met, every time."""
        if name in self._broken:
            raise self._broken[name]
        if name not in self._duts:
            try:
                self._duts[name] = self._connect(self.targets[name])
            except HarnessError as error:
                self._broken[name] = error
                raise
        return self._duts[name]

    def check(self, name: str) -> None:
        """Whether `name` is still ours; two on one target would blame each other.

        Raises LabError when somebody broke or took over the reservation.
        """
        self._locks[name].check()

    def lost(self, name: str) -> str:
        """Why `name` is not ours any more, or nobody can tell whether it is; "" while it is."""
        return self._locks[name].lost()

    def connected(self) -> list[Dut]:
        """Targets that were reached."""
        return list(self._duts.values())

    def broken(self) -> dict[str, HarnessError]:
        """Targets that were not, with the reason."""
        return dict(self._broken)

    def judged(self, name: str) -> set[str]:
        """The tests that have a verdict already, where `name`'s run goes on from an earlier one."""
        path = self._resume.get(name)
        if path is None:
            return set()
        run = RunDir.open(path)
        try:
            return {*recorded(run), *guilty(run)}
        finally:
            run.close()

    def settle(self, name: str) -> None:
        """Where nothing of `name`'s run is left to be run: the test that it was cut short in is
        judged all the same, by who holds the target.  What keeps us from that is in `broken`."""
        path = self._resume.get(name)
        if path is None or not self._unsettled(path):
            return
        try:
            self._open(self.targets[name])
        except HarnessError as error:
            self._broken[name] = error

    @staticmethod
    def _unsettled(path: Path) -> bool:
        run = RunDir.open(path)
        try:
            return bool(guilty(run))
        finally:
            run.close()

    def close(self, how: str) -> None:
        """Leave every target; `how` the session ended goes into the journals.

        All are left even where one makes trouble; raises the first trouble then.
        """
        troubles: list[HarnessError] = []
        leaving: list[Callable[[], object]] = [
            *(dut.close for dut in self._duts.values()),
            *(partial(_end, run, how) for run in self.runs.values()),
            *(lock.release for lock in self._locks.values()),
        ]
        for leave in leaving:
            try:
                leave()
            except HarnessError as error:
                troubles.append(error)
        self._duts.clear()
        self._locks.clear()
        if troubles:
            raise troubles[0]

    def _open(self, target: Target) -> tuple[Hold, RunDir]:
        """Hold it, and have a run of it, perhaps one that is gone on with."""
        held = hold(target, self._command, wait_s=self._wait_s, say=self._say)
        self._locks[target.name] = held
        target = self.targets[target.name] = held.target
        if target.name in self._resume:
            run = RunDir.open(self._resume[target.name])
            reserve(run.path)
            for test in close_guilty(run):
                self._say(f"{target.name}: incomplete, and not run again: {test}")
        else:
            run = RunDir.create(self._root, target.name)
        self.runs[target.name] = run
        run.update(
            target=target.public(), command=self._command, night=self._night, boot=self._booted
        )
        run.journal.add("run-start", target=target.name, command=self._command)
        return held, run

    def _connect(self, target: Target) -> Dut:
        held, run = self._open(target)
        target = held.target
        dut = Dut(target, run, machine_for(target, held.now), self._say, dangerous=self._dangerous)
        try:
            dut.connect()
            if self._boot is not None:
                dut.lodge(self._boot)
            else:
                dut.vacate()
            self._compare(target.name, str(dut.facts["uname"]["release"]))
        except BaseException as error:
            run.journal.add("connect-failed", error=str(error))
            dut.close()
            raise
        return dut

    def _compare(self, name: str, release: str) -> None:
        """Whether it is the kernel that is to be tested."""
        if self._kernel and not fnmatchcase(release, self._kernel):
            raise LabError(
                f"runs {release}, not {self._kernel}",
                where=name,
                cure="boot that kernel there, or leave --kernel out",
            )

    def _target_of(self, path: Path) -> str:
        name = RunDir.open(path).facts().get("target", {}).get("name", "")
        if name not in self.targets:
            raise UsageError(
                f"the run is of target {name!r}, which is not among those asked for",
                where=str(path),
                cure=f"add --target={name}",
            )
        return str(name)


def _end(run: RunDir, how: str) -> None:
    run.journal.add("run-end", how=how)
    (run.path / RESERVE).unlink(missing_ok=True)
    run.close()
