"""Witness: a target whose evidence is cut into the windows of its tests.

What the plugin opens and closes around each test, what an open window shows so far, and what
is looked at more closely while all that is wrong still stands.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from harness.account import Account, open_account
from harness.coverage import CHAINS, GRAPH, Coverage, of_boot
from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.evidence.files import as_json, write_bytes, write_json
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir, Window
from harness.gpu import observe
from harness.gpu.choice import choose
from harness.inventory import Target
from harness.kernel import records, resets, splats, uevents
from harness.kernel.records import Record
from harness.kernel.tail import Tail
from harness.link.machine import Machine
from harness.live.attachment import Attachment, Mark
from harness.live.clients import Clients
from harness.live.health import ailments
from harness.live.rescue import Rescue

__all__ = ["Witness"]

log = logging.getLogger(__name__)

# Longest wait for a snapshot: its entries are limited to half of that together.
SNAPSHOT_S = 60.0
POLL_S = 0.2


class Witness(Rescue):
    """A target that is connected, and what it shows in the window of the running test."""

    def __init__(
        self, target: Target, run: RunDir, machine: Machine, say: Callable[[str], None]
    ) -> None:
        """As Uplink's."""
        super().__init__(target, run, machine, say)
        # For what need not be waited for at once: a test is waited for again and again.
        self._aside = ThreadPoolExecutor(3, "aside")
        self._saving: Future[None] | None = None
        self._looked: dict[str, Any] = {}
        # The boot and the last record of the last window that was closed.
        self._closed = ("", 0)
        self._clients = Clients()
        self._coverage: tuple[Path, Coverage] | None = None

    def close(self) -> None:
        """Stop the clients, then as Uplink says."""
        with contextlib.ExitStack() as leaving:
            leaving.callback(super().close)
            leaving.callback(self._aside.shutdown, cancel_futures=True)
            leaving.callback(self.saved)
            leaving.callback(self._clients.end_log)
            self._clients.stop()

    @property
    def card(self) -> dict[str, Any]:
        """The card under test.  Raises TargetError where none or several match."""
        return choose(self.at.cards, self.target)

    # -- a window, from its begin to its end -----------------------------------

    def looked(self) -> dict[str, Any]:
        """The health as it was when the last window of this boot ended, or as it is."""
        if self._looked.get("boot_id") != self.boot_id:
            self._looked = self.health()
        return self._looked

    def begin(self, test: str, *, destructive: bool) -> Window:
        """Open `test`'s window: everything the kernel prints from here on is its doing."""
        self.saved()
        self._clients.begin_log(self.run.test(test), self.target.policy.stream_limit)
        self.remarks()  # of what came before
        start = self.at.mark(f"start {test}", "window.open")
        recorder = self.at.recorder
        recorder.sync(start.trace)
        window = Window(
            test=test,
            boot_id=self.boot_id,
            first_seq=start.record.seq,
            offset=start.offset,
            mono=start.mono,
            trace_first=None if recorder.absent else start.mono,
            trace_dir=recorder.folder,
            trace=recorder.absent,
            health_before=start.health,
            destructive=destructive,
        )
        self._save(window)
        return window

    def end(self, window: Window, lost: str = "") -> None:
        """Close `window`: stop its clients, restore its knobs, take the health, mark the end.

        `lost`: why the target is not ours any more, so that nothing in it is evidence.
        Never raises for a dead target or link: it says in the window what happened.  That is on
        disk when `saved` returns.
        """
        synced: list[Future[None]] = []
        try:
            self._look_closer(window)
            self._clients.stop()
            self._prove(window)
            for failure in self._mark_end(window, "end"):
                window.lab_error = f"{failure['path']} not restored: {failure['what']}"
            synced = [
                self._aside.submit(flush) for flush in (self._boot.sync, self.at.recorder.flush)
            ]
            self.saved()
            self._boot.check()
        except HarnessError as error:
            self._clients.forget()
            with contextlib.suppress(HarnessError):
                self.saved()
            window.trace = window.trace or "the trace was cut"
            # What is not ours any more is asked nothing: who has it may have rebooted it.
            window.died, lab = ("", "") if lost else self._diagnose()
            if not window.died:
                window.lab_error = f"{window.lab_error or error.what}{lab}"
            if not (window.died or lost):
                self._bound(window)
        # Asked of a window that closed well, too: the machine may outlive its GPU by that much.
        window.trouble = lost or self.trouble()
        if window.trouble:
            window.died = ""
            self.run.journal.add("trouble", test=window.test, reason=window.trouble)
        window.remarks = self.remarks()
        try:
            self._clients.end_log()
        except HarnessError as error:  # its disk's trouble is no broken link
            window.lab_error = window.lab_error or error.what
        self._save(window)
        try:
            for flushed in synced:
                flushed.result()
        except HarnessError as error:
            window.lab_error = window.lab_error or error.what
            self._save(window)

    def saved(self) -> None:
        """Until `window` is on disk as it was last told.  Raises what that met."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def extend(self, window: Window) -> None:
        """Let a closed `window` reach up to now: what a test's teardown causes is its doing too.

        A target that died in it is said in the window.  A link or a part of the lab's that broke
        after the test had ended takes nothing from what was judged; the next test mends it.
        """
        reached = {name: getattr(window, name) for name in window.__struct_fields__}
        try:
            for failure in self._mark_end(window, "after"):
                reason = f"{failure['path']} not restored: {failure['what']}"
                self.run.journal.add("late-trouble", test=window.test, reason=reason)
            if broke := self.trouble():
                for name, value in reached.items():
                    setattr(window, name, value)
                self.run.journal.add("late-trouble", test=window.test, reason=broke)
                return
        except HarnessError as error:
            broke = self.trouble()
            died, lab = ("", f" ({broke})") if broke else self._diagnose()
            if not died:
                self.run.journal.add("late-trouble", test=window.test, reason=f"{error.what}{lab}")
                return
            window.died = died
        self._save(window)

    def tell_between(self, window: Window) -> None:
        """Say what the kernel reported after the last window had been closed and before `window`
        was opened in the same boot: it is no test's, and the boot is not looked at any more."""
        if self._closed[0] != window.boot_id:
            return
        first = self._closed[1] + 1
        kept: dict[int, Record] = {}
        with (self._boot.path / "kmsg").open("rb") as log:
            for record in records.parse(log):
                if first <= record.seq < window.first_seq:
                    kept[record.seq] = record
        reports = splats.find([kept[seq] for seq in sorted(kept)])
        for title in dict.fromkeys(report.title for report in reports):
            self.run.journal.add("between", boot=window.boot_id, before=window.test, reason=title)
            self.say(f"{self.target.name}: between two tests: {title}")

    def examine(self, window: Window, findings: Iterable[Finding]) -> None:
        """Note what ails the target after `window`, so that it is healed before the next test."""
        if self._at is None or self.target.policy.rearm == "never":
            return
        try:
            device = self.card["pci"]
        except TargetError:
            device = ""
        self.ailing = ailments(window.health_before, window.health_after, device, findings)

    # -- what it shows so far --------------------------------------------------

    def log(self, window: Window) -> list[Record]:
        """The kernel's records since `window` opened, up to now."""
        last = self.at.mark(f"look {window.test}").record.seq
        so_far = Tail(self._boot.path / "kmsg", window.offset)
        # A new agent reads the kernel's buffer from its beginning again.
        known = {record.seq: record for record, _ in so_far.advance()}
        return [record for seq, record in sorted(known.items()) if window.first_seq <= seq <= last]

    def gpu_events(self, window: Window) -> list[resets.GpuEvent]:
        """GPU events since `window` opened, up to now; in the log's order, then those of uevents,
        of which the last may not be here yet."""
        seen, card = self.log(window), self.card
        device = card["pci"] or card["name"]
        with (self._boot.path / "uevents.jsonl").open("rb") as told:
            return [*resets.find(seen), *uevents.find(told, window.mono, device)]

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

    def keep(self, window: Window, name: str, data: bytes) -> None:
        """Write `data` beside `window`'s evidence, as the file `name`.  Raises LabError."""
        write_bytes(self.run.test(window.test) / name, data)

    # -- inside ----------------------------------------------------------------

    def _leave(self) -> Attachment | None:
        self._clients.forget()
        return super()._leave()

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

    def _mark_end(self, window: Window, word: str) -> list[dict[str, str]]:
        """Restore the knobs, take the health, and let `window` reach up to then; the knobs that
        would not be restored."""
        mark = self.at.mark(f"{word} {window.test}", "window.close")
        window.health_after = self._looked = mark.health
        self._reach(window, mark)
        return mark.failed

    def _reach(self, window: Window, mark: Mark) -> None:
        """Let `window` reach up to `mark`, in the log and in the trace."""
        window.last_seq = mark.record.seq
        self._closed = window.boot_id, mark.record.seq
        trouble = self.at.recorder.sync(mark.trace)
        window.trace = window.trace or trouble
        if self.at.recorder.folder != window.trace_dir:
            window.trace = window.trace or "the trace was begun anew within the test"
        elif not self.at.recorder.absent:
            window.trace_last = mark.mono

    def _bound(self, window: Window) -> None:
        """Over a link that came back: what the boot says from now on is another test's doing."""
        if window.last_seq is None and self._at is not None and self.boot_id == window.boot_id:
            with contextlib.suppress(HarnessError):
                self._reach(window, self.at.mark(f"end {window.test}"))

    def _save(self, window: Window) -> None:
        """Begin to: as it is now, whatever becomes of it meanwhile."""
        self.saved()
        self._saving = self._aside.submit(self._write, window.test, as_json(window))

    def _write(self, test: str, told: bytes) -> None:
        write_bytes(self.run.test(test) / "window.json", told)
