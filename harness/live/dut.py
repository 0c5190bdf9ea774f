"""Dut: a target that is connected.

What a testcase works with: the engines, clients and displays of its GPU, its knobs;
and what the plugin opens and closes around each test: the window.
"""

from __future__ import annotations

import contextlib
import logging
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.account import Account, open_account
from harness.coverage import CHAINS, GRAPH, Coverage, of_boot
from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.evidence.files import write_bytes, write_json
from harness.evidence.finding import Finding
from harness.evidence.jobs import JobLine, JobLog
from harness.evidence.rundir import RunDir, Window
from harness.gpu import Backend, backend_for, observe
from harness.gpu.base import Engine, Knob
from harness.gpu.choice import choose
from harness.inventory import Target
from harness.kernel import resets, uevents
from harness.kernel.records import Record
from harness.kernel.tail import Tail
from harness.link.machine import Machine
from harness.live import generic
from harness.live.client import Client
from harness.live.coredump import Coredump
from harness.live.display import Display
from harness.live.fbcon import FramebufferConsole
from harness.live.generic import Generic
from harness.live.health import ailments
from harness.live.held import Held, held
from harness.live.module import Module
from harness.live.sleep import Sleep
from harness.live.udev import Udev
from harness.live.uplink import Uplink

__all__ = ["Dut"]

log = logging.getLogger(__name__)

# Longest wait for a snapshot: its entries are limited to half of that together.
SNAPSHOT_S = 60.0
POLL_S = 0.2


class Dut(Uplink):
    """A target that is connected, with the GPU under test and the test's window."""

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
        self._clients: list[Client | Display | Generic] = []
        self._jobs: JobLog | None = None
        self._engines: list[Engine] | None = None
        self._coverage: tuple[Path, Coverage] | None = None

    def close(self) -> None:
        """Stop the clients, then as Uplink says."""
        with contextlib.ExitStack() as leaving:
            leaving.callback(super().close)
            leaving.callback(self._end_jobs)
            self._stop_clients()

    @property
    def card(self) -> dict[str, Any]:
        """The card under test.  Raises TargetError where none or several match."""
        return choose(self.at.cards, self.target)

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

    def client(self, *, display: bool = False) -> Client:
        """A new unprivileged process with the device open; stopped with the test."""
        backend = self.gpu
        workload = self.agent.workload(
            self.target.driver,
            self.card["render"],
            Deadline(self.target.limits.command_s),
            primary=self.card["primary"] if display else "",
        )
        client = Client(workload, backend, self.target.limits.command_s, self._job)
        self._clients.append(client)
        return client

    def display(self) -> Display:
        """A new unprivileged process that is DRM master; stopped with the test.

        Raises TargetError where somebody else is.
        """
        limit = self.target.limits.command_s
        workload = self.agent.workload("kms", "", Deadline(limit), primary=self.card["primary"])
        display = Display(workload, self.agent, self.card, limit)
        self._clients.append(display)
        return display

    def generic(self) -> Generic:
        """A new unprivileged process that submits nothing; stopped with the test."""
        limit = self.target.limits.command_s
        client = generic.start(self.agent, limit, self.card["render"])
        self._clients.append(client)
        return client

    def coredump(self) -> Coredump | None:
        """Where a reset of the card leaves its dump; None where its driver makes none."""
        dump = self.gpu.coredump(self.card)
        return Coredump(self.agent, dump, self.target.limits.command_s) if dump else None

    def coverage(self) -> Coverage:
        """What lockdep knows by now of this boot; its own words are kept first."""
        boot, limit = self._boot.path, self.target.limits.command_s
        for name in (GRAPH, CHAINS):
            # The second is longer, and asked only what the first did not tell.
            if name == GRAPH or not of_boot(boot, self.target.driver).annotated:
                with contextlib.suppress(TargetError):  # a kernel without lockdep
                    self.at.keep(f"/proc/{name}", name, limit)
        self._coverage = boot, of_boot(boot, self.target.driver)
        return self._coverage[1]

    def console(self) -> FramebufferConsole:
        """The console that is drawn through the card, if there is one."""
        return FramebufferConsole(self.agent, self.card, self.target.limits.command_s)

    def sleep(self) -> Sleep:
        """Its suspend to idle, if it has that."""
        return Sleep(self.agent, self.target.limits.command_s)

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

    # -- a test's window -------------------------------------------------------

    def begin(self, test: str, *, destructive: bool) -> Window:
        """Open `test`'s window: everything the kernel prints from here on is its doing."""
        self._end_jobs()
        self._jobs = JobLog(self.run.test(test) / "jobs.jsonl", self.target.policy.stream_limit)
        self.remarks()  # of what came before
        start = self.at.mark(f"start {test}")
        recorder = self.at.recorder
        recorder.sync()
        window = Window(
            test=test,
            boot_id=self.boot_id,
            first_seq=start.record.seq,
            offset=start.offset,
            mono=start.mono,
            trace_first=None if recorder.absent else start.mono,
            trace_dir=recorder.folder,
            trace=recorder.absent,
            health_before=self.health(),
            destructive=destructive,
        )
        self._save(window)
        return window

    def end(self, window: Window, lost: str = "") -> None:
        """Close `window`: stop its clients, restore its knobs, take the health, mark the end.

        `lost`: why the target is not ours any more, so that nothing in it is evidence.
        Never raises for a dead target or link: it says in the window what happened.
        """
        try:
            self._look_closer(window)
            self._stop_clients()
            self._prove(window)
            for failure in self.call("restore")["failed"]:
                window.lab_error = f"{failure['path']} not restored: {failure['what']}"
            window.health_after = self.health()
            self._mark_end(window, "end")
            self._boot.sync()
            self._boot.check()
        except HarnessError as error:
            self._clients.clear()
            window.trace = window.trace or "the trace was cut"
            window.died, lab = self._diagnose()
            if not window.died:
                window.lab_error = f"{window.lab_error or error.what}{lab}"
                self._bound(window)
        # Asked of a window that closed well, too: the machine may outlive its GPU by that much.
        window.trouble = lost or self.trouble()
        if window.trouble:
            window.died = ""
            self.run.journal.add("trouble", test=window.test, reason=window.trouble)
        window.remarks = self.remarks()
        try:
            self._end_jobs()
        except HarnessError as error:  # its disk's trouble is no broken link
            window.lab_error = window.lab_error or error.what
        self._save(window)

    def examine(self, window: Window, findings: Iterable[Finding]) -> None:
        """Note what ails the target after `window`, so that it is healed before the next test."""
        if self._at is None or self.target.policy.rearm == "never":
            return
        try:
            device = self.card["pci"]
        except TargetError:
            device = ""
        self.ailing = ailments(window.health_before, window.health_after, device, findings)

    def forget_engines(self) -> None:
        """They may be others now."""
        self._engines = None

    def extend(self, window: Window) -> None:
        """Let a closed `window` reach up to now: what a test's teardown causes is its doing too.

        A target that died in it is said in the window.  A link or a part of the lab's that broke
        after the test had ended takes nothing from what was judged; the next test mends it.
        """
        try:
            window.health_after = self.health()
            self._mark_end(window, "after")
            window.trouble = self.trouble()
        except HarnessError as error:
            broke = self.trouble()
            died, lab = ("", f" ({broke})") if broke else self._diagnose()
            if not died:
                self.run.journal.add("late-trouble", test=window.test, reason=f"{error.what}{lab}")
                return
            window.died = died
        self._save(window)

    def gpu_events(self, window: Window) -> list[resets.GpuEvent]:
        """GPU events since `window` opened, up to now; in the log's order, then those of uevents,
        of which the last may not be here yet."""
        seen, card = self.log(window), self.card
        device = card["pci"] or card["name"]
        with (self._boot.path / "uevents.jsonl").open("rb") as told:
            return [*resets.find(seen), *uevents.find(told, window.mono, device)]

    def log(self, window: Window) -> list[Record]:
        """The kernel's records since `window` opened, up to now."""
        last = self.at.mark(f"look {window.test}").record.seq
        so_far = Tail(self._boot.path / "kmsg", window.offset)
        return [record for record, _ in so_far.advance() if window.first_seq <= record.seq <= last]

    def recovered(self, window: Window, deadline: Deadline) -> list[resets.GpuEvent]:
        """The GPU events since `window` opened, once every reset of the whole GPU has ended;
        one of an engine is over with its fences.

        At the deadline as they are then: a reset that has not ended has no "reset-done".
        """
        while True:
            events = self.gpu_events(window)
            if not resets.going_on(events) or deadline.expired():
                return events
            time.sleep(POLL_S)

    def fences(self, window: Window) -> Account:
        """The account of the fences since `window` opened, up to now."""
        # Told once only: it is the window's, whoever asked.
        window.trace = self.at.recorder.sync() or window.trace
        return open_account(self.run, msgspec.structs.replace(window, trace_last=None))

    def keep(self, window: Window, name: str, data: bytes) -> None:
        """Write `data` beside `window`'s evidence, as the file `name`.  Raises LabError."""
        write_bytes(self.run.test(window.test) / name, data)

    def snapshot(self, window: Window, why: str = "") -> Path:
        """Keep what tracing cannot see, as it is now, beside `window`: snapshot.json, or
        snapshot-WHY.json.

        Clients that still run are in it: take it before they are stopped.  Raises as a
        call does where the link is gone.
        """
        try:
            wanted = observe.files(self.target.driver, self.card)
        except TargetError:
            wanted = []  # a driver that is gone shows nothing; the tasks still do
        seen = self.agent.call("snapshot", Deadline(SNAPSHOT_S), files=wanted)
        path = self.run.test(window.test) / (f"snapshot-{why}.json" if why else "snapshot.json")
        write_json(path, seen)
        return path

    # -- inside ----------------------------------------------------------------

    def _drop(self) -> None:
        self._clients.clear()
        super()._drop()

    def _stop_clients(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.stop()

    def _job(self, line: JobLine) -> None:
        """What is known of a job, into the test that is running; others are nobody's."""
        if self._jobs is not None:
            self._jobs.add(line)

    def _end_jobs(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.close()
            jobs.check()

    def _look_closer(self, window: Window) -> None:
        """A snapshot where something is wrong, while all that hangs still does."""
        try:
            broken = any(f.severity == "fail" for f in self.fences(window).findings)
            if broken or window.body in ("failed", "error"):
                self.snapshot(window)
        except HarnessError as error:
            if not self.agent.alive:
                raise
            log.warning("no snapshot: %s", error)

    def _prove(self, window: Window) -> None:
        """Ask lockdep what it saw of the recovery, until it has seen all of it once in a boot."""
        known = self._coverage
        proven = known is not None and known[0] == self._boot.path and known[1].complete
        if window.destructive and window.body in ("passed", "failed") and not proven:
            self.coverage()

    def _mark_end(self, window: Window, word: str) -> None:
        """Let `window` reach up to now, in the log and in the trace."""
        mark = self.at.mark(f"{word} {window.test}")
        window.last_seq = mark.record.seq
        trouble = self.at.recorder.sync()
        window.trace = window.trace or trouble
        if self.at.recorder.folder != window.trace_dir:
            window.trace = window.trace or "the trace was begun anew within the test"
        elif not self.at.recorder.absent:
            window.trace_last = mark.mono

    def _bound(self, window: Window) -> None:
        """Over a link that came back: what the boot says from now on is another test's doing."""
        if window.last_seq is None and self._at is not None and self.boot_id == window.boot_id:
            with contextlib.suppress(HarnessError):
                self._mark_end(window, "end")

    def _save(self, window: Window) -> None:
        write_json(self.run.test(window.test) / "window.json", window)
