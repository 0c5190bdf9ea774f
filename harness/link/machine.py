"""The machine itself: how it comes up and goes down, and where its sshd is.

The one place where a machine of QEMU's and a box in a rack differ; everything
above sees only this promise.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError
from harness.evidence.files import disk_error
from harness.inventory import Target
from harness.link.console import Console
from harness.link.console_line import Line
from harness.link.console_source import Source, source_for
from harness.link.dial import Endpoint
from harness.link.power import Power, power_for
from harness.link.qemu import Qemu
from harness.link.virtual import cache_root, load_manifest
from harness.ways import NoConsole

__all__ = ["Box", "Machine", "Sink", "Virtual", "machine_for", "state_dir"]

Sink = Callable[[bytes], object]

# The name Qemu serves its console under; a box's is served the same way.
CONSOLE_SOCKET = "console.sock"


def state_dir(target: Target) -> Path:
    """Where what lives only as long as a session lies: disk overlay, console socket.  Of several
    machines that one target has, those of the one that is tested now."""
    return _live(target) / "now"


def _live(target: Target) -> Path:
    return cache_root() / "live" / target.name


class Machine(Protocol):
    """A machine one can power and reach."""

    def describe(self) -> str:
        """One line for people."""

    def facts(self) -> dict[str, Any]:
        """What makes like comparable with like; no secrets."""

    def up(self, console: Sink, deadline: Deadline, evidence: Path | None = None) -> None:
        """Have it running, its console flowing into `console` from before its first line.

        What else the lab's own parts of it say goes into files in `evidence`, if given.
        """

    def hear(self, console: Sink) -> None:
        """From now on its console flows into `console`."""

    def twin(self) -> Machine | None:
        """Another of the same make, to be booted beside it; None where there is none, or none is
        wanted."""

    def appear(self) -> None:
        """From now on it is what people find under its target's name.  Raises LabError."""

    def endpoint(self) -> Endpoint:
        """Where its sshd is, once it is up."""

    @property
    def power(self) -> Power:
        """What switches it, and may raise an NMI in it."""

    def cycle(self, deadline: Deadline) -> None:
        """Cut its power and give it back.  Raises LabError where that cannot be done."""

    def reset(self, deadline: Deadline) -> bool:
        """Press its reset button, which keeps its memory and so ramoops; False where it has none.

        Raises LabError where that cannot be done.
        """

    def sysrq(self, key: str, deadline: Deadline) -> bool:
        """A key of the kernel's own (BREAK, then `key`) on its console: whether anything was said
        to it; False without a console that can.  Raises LabError."""

    def answers(self, deadline: Deadline) -> bool:
        """Whether its console says anything to a key that is pressed there; False without one."""

    def post_mortem(self) -> str:
        """What is known of its death from outside; "" where nothing is."""

    def trouble(self) -> str:
        """What of the lab's own broke under it, in words; "" while all is well.

        Then what its kernel did is no evidence.
        """

    def remarks(self) -> list[str]:
        """What else of the lab's own a judge should know, since this was last asked."""

    def console_tail(self) -> str:
        """The last console lines, control characters made harmless; "" without a console."""

    def down(self) -> None:
        """Leave it: stop what we started, close its console.  Idempotent."""


class Virtual:
    """A machine of QEMU's, started by us and stopped by us."""

    def __init__(self, target: Target, number: int = 0) -> None:
        """`number` tells a target's machines apart; its first one is its only one, unless that
        makes twins."""
        self._target = target
        self._number = number
        self._manifest = load_manifest()
        self._dir = _live(target) / str(number)
        self._sink: Sink = lambda data: None
        self.qemu = Qemu(target, self._manifest, self._dir, lambda data: self._sink(data))

    def describe(self) -> str:
        return f"booting {self.qemu.describe()}"

    def facts(self) -> dict[str, Any]:
        made = msgspec.to_builtins(self._manifest)
        told = ("source", "config_hash", "patches", "module_hash", "release")
        return {
            "kind": f"QEMU ({self.qemu.accel})",
            **{name: made[name] for name in told},
            "notes": list(self.qemu.notes),
        }

    def up(self, console: Sink, deadline: Deadline, evidence: Path | None = None) -> None:
        # Left by the one that had this number before.
        shutil.rmtree(self._dir, ignore_errors=True)
        self.hear(console)
        self.qemu.evidence = evidence or self._dir
        self.qemu.on(deadline)  # whoever connects waits for its sshd, and knows when to give up

    def hear(self, console: Sink) -> None:
        self._sink = console

    def twin(self) -> Virtual | None:
        vm = self._target.vm
        return Virtual(self._target, 1 - self._number) if vm is not None and vm.spare else None

    def appear(self) -> None:
        # Replaced in one step: who looks for it finds the one or the other.
        now = state_dir(self._target)
        new = now.with_name("new")
        try:
            new.unlink(missing_ok=True)
            new.symlink_to(self._dir.name)
            new.rename(now)
        except OSError as error:
            raise disk_error(now, error) from error

    def endpoint(self) -> Endpoint:
        return self.qemu.endpoint()

    @property
    def power(self) -> Power:
        return self.qemu

    def cycle(self, deadline: Deadline) -> None:
        self.qemu.cycle(deadline)

    def reset(self, deadline: Deadline) -> bool:
        if not self.qemu.alive():
            return False
        self.qemu.qmp("system_reset", deadline)
        return True

    def sysrq(self, key: str, deadline: Deadline) -> bool:
        if not self.qemu.alive():
            return False
        seen = self.qemu.console.received
        self.qemu.send_break(deadline)
        self.qemu.console.write(key.encode())
        # A second BREAK before the first was heeded would be the same one.
        return self.qemu.console.wait_received(seen, deadline)

    def answers(self, deadline: Deadline) -> bool:
        return _answers(self.qemu.console, deadline)

    def post_mortem(self) -> str:
        return self.qemu.exit_reason()

    def trouble(self) -> str:
        return self.qemu.trouble()

    def remarks(self) -> list[str]:
        return self.qemu.remarks()

    def console_tail(self) -> str:
        return self.qemu.console.tail()

    def down(self) -> None:
        self.qemu.stop()
        shutil.rmtree(self._dir, ignore_errors=True)
        now = state_dir(self._target)
        if now.is_symlink() and not now.exists():
            now.unlink()


class Box:
    """A machine that stands somewhere: up by itself, powered as its keeper configured."""

    def __init__(self, target: Target, now: Callable[[], Target] | None = None) -> None:
        """`now` tells the target as it is configured by then: its console may have moved."""
        self._endpoint = Endpoint.of(target)
        self._target = target
        self._now = now or (lambda: target)
        self._power = power_for(target)
        self._console: Console | None = None
        self._line: Line | None = None
        self._sink: Sink = lambda data: None
        self._remarks: list[str] = []

    def describe(self) -> str:
        return f"reaching {self._endpoint.where}"

    def facts(self) -> dict[str, Any]:
        return {"kind": "box"}

    def up(self, console: Sink, deadline: Deadline, evidence: Path | None = None) -> None:
        if isinstance(self._target.console, NoConsole):
            return
        self.hear(console)
        self._console = Console(lambda data: self._sink(data), name=self._target.name)
        self._line = Line(self._console, self._source)
        self._line.open()
        directory = state_dir(self._target)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._console.serve(directory / CONSOLE_SOCKET)
        except (HarnessError, OSError) as error:  # the evidence flows all the same
            self._remarks.append(f"nobody can watch the console: {error}")

    def hear(self, console: Sink) -> None:
        self._sink = console

    def twin(self) -> None:
        return None

    def appear(self) -> None:
        """There is but one."""

    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def power(self) -> Power:
        return self._power

    def cycle(self, deadline: Deadline) -> None:
        self._power.cycle(deadline)

    def reset(self, deadline: Deadline) -> bool:
        return False

    def sysrq(self, key: str, deadline: Deadline) -> bool:
        if self._console is None:
            return False
        seen = self._console.received
        return self._console.sysrq(key) and self._console.wait_received(seen, deadline)

    def answers(self, deadline: Deadline) -> bool:
        return self._console is not None and _answers(self._console, deadline)

    def post_mortem(self) -> str:
        return ""

    def trouble(self) -> str:
        return ""

    def remarks(self) -> list[str]:
        told, self._remarks = self._remarks, []
        return [*told, *(self._line.remarks() if self._line else [])]

    def console_tail(self) -> str:
        return self._console.tail() if self._console else ""

    def down(self) -> None:
        if self._line is not None:
            self._line.close()
            self._console = self._line = None

    def _source(self) -> Source:
        source = source_for(self._now())
        if source is None:
            raise LabError("no console is configured", where=self._target.name)
        return source


def _answers(console: Console, deadline: Deadline) -> bool:
    seen = console.received
    try:
        console.write(b"\r")
    except LabError:
        return False
    return console.wait_received(seen, deadline)


def machine_for(target: Target, now: Callable[[], Target] | None = None) -> Machine:
    """The machine behind `target`; `now` as Box's.

    Raises LabError where a virtual one was never set up.
    """
    # Left by a run that was killed; the reservation says that nobody uses it now.
    shutil.rmtree(_live(target), ignore_errors=True)
    return Virtual(target) if target.virtual else Box(target, now)
