"""Dut: a target that is connected.

Brings it up, keeps its evidence flowing to disk, opens each test's window,
closes it, and brings the machine back when a test took it down.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness import host
from harness.account import Account, open_account
from harness.attachment import Attachment
from harness.client import Client
from harness.coredump import Coredump
from harness.deadline import Deadline
from harness.display import Display
from harness.errors import HarnessError, LabError, TargetError
from harness.evidence.boot import Boot
from harness.evidence.files import write_bytes, write_json
from harness.evidence.jobs import JobLine, JobLog
from harness.evidence.rundir import RunDir, Window
from harness.gpu import Backend, backend_for, observe
from harness.gpu.base import Engine, Knob
from harness.gpu.choice import choose
from harness.inventory import Target
from harness.kernel import resets, uevents
from harness.kernel.records import Record
from harness.kernel.tail import Tail
from harness.link.agent import Agent
from harness.link.machine import Machine
from harness.module import Module

__all__ = ["Dut"]

log = logging.getLogger(__name__)

# Longest wait for a snapshot: its entries are limited to half of that together.
SNAPSHOT_S = 60.0
# How a reset may end.
ENDS = ("reset-done", "reset-failed", "escalated", "wedged")
POLL_S = 0.2


class Dut:
    """One connected target and the run its evidence goes to."""

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
        self._clients: list[Client | Display] = []
        self._jobs: JobLog | None = None
        self._engines: list[Engine] | None = None
        self._last_words = ""

    # -- coming and going ------------------------------------------------------

    def connect(self) -> None:
        """Power up, reach the target, start its agent and its collectors.

        Raises LabError where it cannot be reached, UsageError where it is this very
        machine, TargetError where it lacks what the agent needs.
        """
        self._say(f"{self.target.name}: {self._machine.describe()}")
        self._machine.up(self._console, Deadline(self.target.limits.boot_s), self.run.path)
        self._attach(wait=True)

    def close(self) -> None:
        """Release what hangs, restore knobs, end the agent, leave the machine.  Idempotent.

        The machine is left whatever trouble the steps before make; raises the first.
        """
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._boot.close)
            leaving.callback(self._end_jobs)
            leaving.callback(self._machine.down)
            at, self._at = self._at, None
            if at is not None:
                leaving.callback(at.close)
            self._stop_clients()

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

    @property
    def card(self) -> dict[str, Any]:
        """The card under test.  Raises TargetError where none or several match."""
        return choose(self.at.cards, self.target)

    @property
    def gpu(self) -> Backend:
        """The driver's back end.  Raises UsageError where there is none."""
        return backend_for(self.target.driver)

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        """One of the agent's operations within limits.command_s."""
        return self.agent.call(op, Deadline(self.target.limits.command_s), **args)

    def health(self) -> dict[str, Any]:
        """debug_locks (1 armed, 0 off, None: no lockdep in this kernel), taint, boot_id."""
        return self.call("health")

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

    def coredump(self) -> Coredump | None:
        """Where a reset of the card leaves its dump; None where its driver makes none."""
        dump = self.gpu.coredump(self.card)
        return Coredump(self.agent, dump, self.target.limits.command_s) if dump else None

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

    def last_words(self) -> str:
        """The last console lines before the last death; "" without a console."""
        return self._last_words

    def trouble(self) -> str:
        """What of the lab's own broke under the machine, in words; "" where all is well."""
        return self._machine.trouble()

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

    def end(self, window: Window) -> None:
        """Close `window`: stop its clients, restore its knobs, take the health, mark the end.

        Never raises for a dead target or link: it says in the window what happened.
        """
        try:
            self._look_closer(window)
            self._stop_clients()
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
            window.trouble = self.trouble()
            if window.trouble:
                window.died = ""
                self.run.journal.add("trouble", test=window.test, reason=window.trouble)
            elif not window.died:
                window.lab_error = f"{window.lab_error or error.what}{lab}"
        try:
            self._end_jobs()
        except HarnessError as error:  # its disk's trouble is no broken link
            window.lab_error = window.lab_error or error.what
        self._save(window)

    def extend(self, window: Window) -> None:
        """Let a closed `window` reach up to now: what a test's teardown causes is its doing too."""
        window.health_after = self.health()
        self._mark_end(window, "after")
        self._save(window)

    def gpu_events(self, window: Window) -> list[resets.GpuEvent]:
        """GPU events since `window` opened, up to now; in the log's order, then those of uevents,
        of which the last may not be here yet."""
        seen = self.log(window)
        with (self._boot.path / "uevents.jsonl").open("rb") as told:
            return [*resets.find(seen), *uevents.find(told, window.mono)]

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
            begun = sum(event.step == "reset-begin" and event.scope != "engine" for event in events)
            ended = sum(event.step in ENDS and event.scope != "engine" for event in events)
            if ended >= begun or deadline.expired():
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
        boots = [*self.run.facts().get("boots", [])]
        if self.boot_id not in boots:
            boots.append(self.boot_id)
        self.run.journal.add("boot", boot=self.boot_id, kernel=self.facts["uname"]["release"])
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

    def _new_boot(self) -> None:
        self._boot.close()
        self._boot = Boot(self.run, self.target.policy.stream_limit)

    def _drop(self) -> None:
        self._clients.clear()
        at, self._at = self._at, None
        if at is not None:
            at.drop()

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

    def _save(self, window: Window) -> None:
        write_json(self.run.test(window.test) / "window.json", window)
