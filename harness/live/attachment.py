"""An attachment to one boot of a target: SSH, the agent, its collectors, marks in the log.

Made when the target is up, dropped when its link or its boot is gone; the streams
it feeds belong to the run.
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness import host
from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError, UsageError
from harness.evidence.boot import Boot
from harness.evidence.files import write_bytes
from harness.inventory import Target
from harness.kernel.records import Record
from harness.kernel.tail import Tail
from harness.link import predecessor, zipapp
from harness.link.agent import Agent
from harness.link.dial import Endpoint
from harness.link.ssh import Ssh
from harness.live.recorder import Recorder

__all__ = ["Attachment", "Mark"]

# Longest wait for a mark to come back: a round trip and a busy serial console.
MARK_S = 20.0
# Bytes of a file asked for at once.
PIECE = 4 << 20
# What a dead machine is given to answer our goodbye.
GOODBYE_S = 2.0


class Mark(NamedTuple):
    """A mark in the kernel log: its record, where that begins in the boot's kmsg, in bytes,
    and CLOCK_MONOTONIC of the target when it was written, in ns.

    Of a window's first and last also what the recorder's sync was told and the target's health,
    and at the last the knobs that would not be restored, [{"path", "what"}]."""

    record: Record
    offset: int
    mono: int
    trace: dict[str, Any]
    health: dict[str, Any]
    failed: list[dict[str, str]]


class Attachment:
    """What works only as long as this boot and this link do."""

    def __init__(
        self,
        target: Target,
        endpoint: Endpoint,
        boot_for: Callable[[str], Boot],
        *,
        wait: bool,
        seconds: float = 0.0,
        hopeless: Callable[[], str] | None = None,
        before: tuple[str, int] = ("", 0),
        again: bool = False,
    ) -> None:
        """Reach the target and start collecting.

        `boot_for` gives the streams of a boot_id; `wait`: it may still be booting, for
        `seconds` instead of the target's limit, unless `hopeless` says why it never will.
        `before` is boot_id and pid of the last agent, which must not go on beside the new one;
        `again`: as far as anybody knows it is still the same boot.
        Raises LabError where it cannot be reached, UsageError where it is this very
        machine, TargetError where it lacks what the agent needs.  That time is for reaching it:
        once it answers each step has limits.command_s, or one that is slow would be taken for one
        that does not.
        """
        self._target = target
        limits = target.limits
        deadline = Deadline(seconds or (limits.boot_s if wait else limits.connect_s))
        with contextlib.ExitStack() as undo:
            self.ssh = Ssh.connect(endpoint, deadline, wait=wait, hopeless=hopeless)
            undo.callback(self.ssh.close)
            boot_id, early = self._meet(*before, again)
            if boot_id == host.boot_id():
                raise UsageError(
                    "this is the very machine the harness runs on",
                    where=target.name,
                    cure="name another machine; its GPU will be hung",
                )
            self.boot = boot_for(boot_id)
            self._tail = Tail(self.boot.path / "kmsg")
            self.agent = self._start_agent(early if boot_id == before[0] else None)
            undo.callback(lambda: self.agent.close(Deadline(GOODBYE_S)))
            self.agent.collect("kmsg", self.boot.kmsg, self._step(), **{"from": "start"})
            # Whatever it takes to start, the log is already flowing; an emulated target spends
            # long on each, and on its other CPU.
            with ThreadPoolExecutor(2, "attach") as aside:
                trace = aside.submit(Recorder, target, self.agent, self.boot, self._step())
                uevents = self.boot.uevents
                told = aside.submit(self.agent.collect, "uevents", uevents, self._step())
                undo.callback(_close, trace)
                self.facts: dict[str, Any] = self.agent.call("hello", self._step())
                self.cards: list[dict[str, Any]] = self.agent.call("cards", self._step())["cards"]
                self._keep_config()
            self.recorder = trace.result()
            told.result()
            undo.pop_all()

    def mark(self, text: str, op: Literal["mark", "window.open", "window.close"] = "mark") -> Mark:
        """Write a mark into the kernel log and wait until it has come back on disk; `op` is what
        else the agent does on the way."""
        deadline = Deadline(MARK_S if op == "mark" else MARK_S + self._target.limits.command_s)
        token = f"{text} {time.monotonic_ns():x}"
        more = {} if op == "mark" else {"trace": self.recorder.on}
        told = self.agent.call(op, deadline, text=token, **more)
        while True:
            logged = self.boot.logged
            for record, offset in self._tail.advance():
                if token in record.text:
                    trace, health = told.get("trace", {}), told.get("health", {})
                    failed = told.get("failed", [])
                    return Mark(record, offset, told["mono"], trace, health, failed)
            self.boot.check()
            if deadline.expired() or not self.agent.alive:
                raise LabError(
                    f"the kernel log stopped: mark {text!r} did not come back",
                    where=self._target.name,
                    cure="see the boot's kmsg and agent-events.jsonl",
                )
            self.boot.wait_kmsg(logged, deadline)

    def keep(self, path: str, name: str, seconds: float) -> None:
        """Copy the target's file `path`, which may be long, to `name` beside the boot's streams.

        Raises TargetError where it cannot be read.
        """
        deadline, data = Deadline(seconds), b""
        while True:
            piece = self.agent.call("read", deadline, path=path, offset=len(data), limit=PIECE)
            data += b64decode(piece["data"])
            if not piece["truncated"]:
                break
        write_bytes(self.boot.path / name, data)

    def close(self) -> None:
        """Have the agent undo everything and end; never waits long for a dead machine."""
        self.agent.close(Deadline(self._target.limits.command_s if self.agent.alive else GOODBYE_S))
        self.recorder.close()
        self.ssh.close()

    def drop(self) -> None:
        """Forget a link or a boot that is known to be gone."""
        self.agent.close(Deadline(GOODBYE_S))
        self.recorder.close()
        self.ssh.close()

    def _step(self) -> Deadline:
        return Deadline(self._target.limits.command_s)

    def _meet(self, boot_id: str, pid: int, again: bool) -> tuple[str, Future[Agent] | None]:
        """Which boot is up, with the agent `pid` of `boot_id` ended; and, where that boot had the
        agent's file already, a new one: it starts meanwhile, and does nothing before it is asked
        to."""
        if not boot_id:
            return self.ssh.boot_id(self._step()), None
        with ThreadPoolExecutor(1, "attach") as aside:
            early = aside.submit(self._serve) if again else None
            now = predecessor.end(self.ssh, boot_id, pid, self._step())
        if early is not None and now != boot_id:
            with contextlib.suppress(HarnessError):
                early.result().close(Deadline(GOODBYE_S))
        return now, early

    def _start_agent(self, early: Future[Agent] | None) -> Agent:
        """`early` is one that was started already; unless its file had been swept away."""
        app, path = _app()
        try:
            if early is not None:
                return early.result()
            self.ssh.put(app, path, 0o755, self._step())
            return self._serve()
        except LabError as error:
            if early is not None and self.ssh.put(app, path, 0o755, self._step()):
                return self._serve()
            raise self._without_python() or error from error

    def _serve(self) -> Agent:
        argv = ["python3", _app()[1], "serve"]
        channel = self.ssh.channel(argv, root=True, deadline=self._step())
        silence = self._target.limits.silence_s
        # Its boot may not be known yet, but then it has nothing to tell.
        return Agent(
            channel, self._step(), on_event=lambda event: self.boot.event(event), silence=silence
        )

    def _without_python(self) -> TargetError | None:
        """Whether that is why the agent did not start."""
        told = "import sys; sys.exit(sys.version_info < (3, 9))"
        try:
            fits = self.ssh.run(["python3", "-c", told], self._step()).ok
        except TargetError:
            fits = False
        if fits:
            return None
        return TargetError(
            "has no python3 of version 3.9 or newer, which the agent needs",
            where=self._target.name,
            cure="install python3 there; nothing else is needed but udev",
        )

    def _keep_config(self) -> None:
        place = self.facts["config"]
        if place and not (kept := self.boot.path / Path(place["path"]).name).exists():
            data = self.agent.call("read", self._step(), path=place["path"], limit=1 << 20)["data"]
            write_bytes(kept, b64decode(data))


def _app() -> tuple[bytes, str]:
    """The agent, and where it lies on a target."""
    app, digest = zipapp.build()
    return app, f"/var/tmp/lab-agent-{digest[:16]}.pyz"


def _close(recorder: Future[Recorder]) -> None:
    if recorder.exception() is None:
        recorder.result().close()
