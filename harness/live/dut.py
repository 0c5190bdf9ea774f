"""Dut: a target that is connected.

What a testcase works with: the engines, clients and displays of its GPU, its knobs, what else
there is on the machine, and whether any of it may be hung.
"""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.evidence.rundir import RunDir, Window
from harness.gpu import Backend, backend_for
from harness.gpu.base import Engine, Knob
from harness.inventory import Target
from harness.link.machine import Machine
from harness.live import generic
from harness.live.client import Client
from harness.live.coredump import Coredump
from harness.live.display import Display
from harness.live.fbcon import FramebufferConsole
from harness.live.generic import Generic
from harness.live.held import Held, held
from harness.live.module import Module
from harness.live.sleep import Sleep
from harness.live.tenant import Tenant
from harness.live.udev import Udev

__all__ = ["Dut"]

# Longest wait for a console's answer to a key that is pressed while it sleeps.
KEY_S = 0.2


class Dut(Tenant):
    """A target that is connected, with the GPU under test."""

    def __init__(
        self,
        target: Target,
        run: RunDir,
        machine: Machine,
        say: Callable[[str], None],
        *,
        dangerous: bool = False,
    ) -> None:
        """`say` shows one line of progress to whoever waits; `dangerous`: its GPU is hung even
        where facts say that it would not come back."""
        super().__init__(target, run, machine, say)
        self._dangerous = dangerous
        self._engines: list[Engine] | None = None

    @property
    def gpu(self) -> Backend:
        """The driver's back end.  Raises UsageError where there is none."""
        return backend_for(self.target.driver)

    # -- what is on it ---------------------------------------------------------

    def engines(self) -> list[Engine]:
        """Every engine the driver offers to an unprivileged client."""
        if self._engines is None:
            with self.client() as client:
                self._engines = self.gpu.engines(client.device()["engines"], self.card)
        return self._engines

    def forget_engines(self) -> None:
        """They may be others now."""
        self._engines = None

    def client(self, *, display: bool = False) -> Client:
        """A new unprivileged process with the device open; stopped with the test."""
        backend = self.gpu
        workload = self.agent.workload(
            self.target.driver,
            self.card["render"],
            Deadline(self.target.limits.command_s),
            primary=self.card["primary"] if display else "",
        )
        client = Client(workload, backend, self.target.limits.command_s, self._clients.job)
        return self._clients.add(client)

    def display(self) -> Display:
        """A new unprivileged process that is DRM master; stopped with the test.

        Raises TargetError where somebody else is.
        """
        limit = self.target.limits.command_s
        workload = self.agent.workload("kms", "", Deadline(limit), primary=self.card["primary"])
        return self._clients.add(Display(workload, self.agent, self.card, limit))

    def generic(self) -> Generic:
        """A new unprivileged process that submits nothing; stopped with the test."""
        limit = self.target.limits.command_s
        return self._clients.add(generic.start(self.agent, limit, self.card["render"]))

    def coredump(self) -> Coredump | None:
        """Where a reset of the card leaves its dump; None where its driver makes none."""
        dump = self.gpu.coredump(self.card)
        return Coredump(self.agent, dump, self.target.limits.command_s) if dump else None

    def console(self) -> FramebufferConsole:
        """The console that is drawn through the card, if there is one."""
        return FramebufferConsole(self.agent, self.card, self.target.limits.command_s)

    def sleep(self) -> Sleep:
        """Its suspend to idle, if it has that: shorter than who misses it would wait."""
        limits, watchdog = self.target.limits, self.target.watchdog
        missed = min([limits.silence_s, *([watchdog.timeout_s] if watchdog else [])])
        press = self._machine.answers
        return Sleep(self.agent, limits.command_s, 0.6 * missed, lambda: press(Deadline(KEY_S)))

    def held(self) -> Held:
        """What its kernel holds for itself now."""
        return held(self.agent, self.target.limits.command_s)

    def udev(self) -> Udev:
        """Listens to what udev tells of the card."""
        card = self.card
        return Udev(self.agent, card["pci"] or card["name"], self.target.limits.command_s)

    def module(self, name: str) -> Module:
        """A module of its kernel's, loaded or not."""
        return Module(self.agent, name, self.target.limits.command_s)

    @contextlib.contextmanager
    def without(self, window: Window, module: Module) -> Iterator[None]:
        """`module` is taken out while the block runs, and put back.  Raises as Module.out does.

        Its events leave the trace with it: `window` has no fence account, and the trace is
        begun anew afterwards.
        """
        window.trace_first = None
        window.trace = f"{module.name} was taken out, and its events with it"
        try:
            with module.out():
                yield
        finally:
            at, self._at, self._engines = self.at, None, None
            at.close()
            self._attach(wait=True)

    @contextlib.contextmanager
    def unbound(self, deadline: Deadline) -> Iterator[None]:
        """The driver is taken from the card, within `deadline`, while the block runs, and given it
        again.  Raises TargetError where the card is on no PCI bus."""
        card, limit = self.card, self.target.limits.command_s
        if card["pci"] is None:
            raise TargetError("the card is on no PCI bus", where=self.target.name)
        driver, data = f"/sys/bus/pci/drivers/{card['driver']}", b64encode(card["pci"].encode())
        args = {"data": data.decode(), "seconds": deadline.left()}
        try:
            self.agent.call("write", deadline, path=f"{driver}/unbind", **args)
            yield
        finally:
            args["seconds"] = 2 * limit
            self.agent.call("write", Deadline(2 * limit + 10), path=f"{driver}/bind", **args)
            self.call("run", argv=["udevadm", "settle"], timeout=limit / 2)
            self.at.cards, self._engines = self.call("cards")["cards"], None

    # -- its settings ----------------------------------------------------------

    def pin(self, engine: Engine) -> None:
        """Keep jobs for `engine` on that very ring; undone with the test."""
        self.turn(*engine.pins)

    def hasten(self, engine: Engine) -> None:
        """Let the driver notice hangs of `engine` as soon as it can; undone with the test."""
        self.turn(*self.gpu.haste(engine, self.card))

    def turn(self, *knobs: Knob) -> None:
        """Change settings of the driver's; undone by `restore`, with the test at the latest."""
        for knob in knobs:
            self.call("knob", path=knob.path, value=knob.value)

    def restore(self) -> None:
        """Put all knobs back.  Raises TargetError where one cannot be."""
        for failure in self.call("restore")["failed"]:
            raise TargetError(
                f"not restored: {failure['what']}",
                where=failure["path"],
                cure="reboot the target",
            )

    def reset_gpu(self, deadline: Deadline) -> None:
        """Trigger the driver's own reset by hand.  Raises TargetError where it has none."""
        manual = self.gpu.manual_reset(self.card)
        if manual is None:
            raise TargetError(
                "this driver has no manual reset", where=self.target.name, cure="hang it instead"
            )
        where: dict[str, Any] = {"path": manual.path, "seconds": deadline.left()}
        if manual.data is None:
            self.agent.call("read", deadline, limit=4096, **where)
        else:
            data = b64encode(manual.data.encode()).decode()
            self.agent.call("write", deadline, data=data, **where)

    # -- what may be hung ------------------------------------------------------

    def recipes(self, engine: Engine) -> list[str]:
        """Ways to hang `engine`, the safest first; with --dangerous all of them."""
        risky = list(self.gpu.dangerous(engine)) if self._dangerous else []
        return [*self.gpu.recipes(engine), *risky]

    def refusal(self, client: Client) -> str:
        """Why the GPU that `client` has open must not be hung, or ""; --dangerous hangs it."""
        return "" if self._dangerous else self.gpu.refusal(client.device())

    def refuse_destruction(self) -> str:
        """Why no test may hang this target now, or "" where it may."""
        if not self.target.destructive:
            return f"target {self.target.name} did not opt in (destructive = true)"
        users = self.call("clients")["clients"]
        if users:
            named = ", ".join(f"{u['comm']} (pid {u['pid']}, {u['node']})" for u in users)
            return f"others use the GPU of {self.target.name}: {named}"
        return ""
