"""The agent, seen from the host: calls, streams and events over one channel.

One thread reads; callers on any thread wait for their own replies.  A silent or
closed link fails every pending call at once, naming the target and the cure.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from harness.agent import frames
from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError, UsageError
from harness.link.channel import ByteChannel

__all__ = ["Agent", "Collection", "Workload"]

_BEAT = 1.0
_PIECE = 1 << 18
_KINDS: Mapping[str, type[HarnessError]] = {
    "usage": UsageError,
    "target": TargetError,
    "lab": LabError,
}

Sink = Callable[[bytes], None]


class Agent:
    """A running agent.  Thread-safe; any number of calls may be in flight.

    `on_event` receives every unsolicited message but heartbeats (kmsg_lost,
    collector_failed, ...) on the reading thread, as do the sinks of streams:
    they may not call the agent, and what they raise ends the link.
    """

    def __init__(
        self,
        channel: ByteChannel,
        deadline: Deadline,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        silence: float = 30.0,
    ) -> None:
        """Shake hands.  `silence`: seconds without the agent's heartbeat that end the link.

        Raises LabError: no greeting by `deadline`, not the agent's, or of another version.
        """
        self.peer = channel.peer
        self._channel = channel
        self._on_event = on_event
        self._silence = silence
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._pending: dict[int, _Slot] = {}
        self._numbers = itertools.count(1)
        self._streams = itertools.count(1)
        self._sinks: dict[int, tuple[Sink, threading.Event]] = {}
        self._gone: LabError | None = None
        self._closing = False
        self._stop_beating = threading.Event()
        self._heard = time.monotonic()
        self._greeted = _Slot()
        self._reader = threading.Thread(target=self._read, name="agent-reader", daemon=True)
        self._reader.start()
        try:
            self._send(frames.greeting())
            if not self._greeted.done.wait(deadline.left()):
                raise LabError(
                    f"no greeting from the agent within {deadline.seconds:g} s{self._words()}",
                    where=self.peer,
                    cure="check that python3 runs there and can read the agent's file",
                )
            if self._gone is not None:
                raise self._gone
        except LabError:
            self._channel.close()
            raise
        self._heard = time.monotonic()
        self._beater = threading.Thread(target=self._beat, name="agent-heartbeat", daemon=True)
        self._beater.start()

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        return self._gone is None

    def call(self, op: str, deadline: Deadline, **arguments: Any) -> dict[str, Any]:
        """An operation's result; what there is to call: harness/agent/operations.py.

        Raises the agent's error as UsageError, TargetError or LabError, and
        LabError when the link is or goes down, or when the deadline passes.
        """
        return self._request(op, deadline, arguments)

    def collect(self, what: str, sink: Sink, deadline: Deadline, **arguments: Any) -> Collection:
        """Start a collector; `sink` gets its raw bytes, on the reading thread, as they come.

        `what` is "kmsg" (from="start" or "end") or "uevents" (subsystems=[...]).
        Raises as `call` does.
        """
        stream, ended = self._open_stream(sink)
        try:
            self._request("collect", deadline, {"what": what, "stream": stream, **arguments})
        except HarnessError:
            self._close_stream(stream)
            raise
        return Collection(self, stream, ended)

    def workload(
        self,
        driver: str,
        node: str,
        deadline: Deadline,
        *,
        stderr: Sink | None = None,
        **arguments: Any,
    ) -> Workload:
        """Start a workload process; see workload_start in harness/agent/operations.py.

        `stderr` gets what it writes there, on the reading thread.  Raises as `call` does.
        """
        stream, _ = self._open_stream(stderr or _drop)
        wanted = {"driver": driver, "node": node, "stream": stream, **arguments}
        try:
            started = self._request("workload.start", deadline, wanted)
        except HarnessError:
            self._close_stream(stream)
            raise
        return Workload(self, started["workload"], started["ready"])

    def close(self, deadline: Deadline | None = None) -> dict[str, Any] | None:
        """Have the agent undo everything and end; what it undid, None if it was gone.

        {"workloads": [...], "restored": [path], "failed": [{"path", "what"}]}.
        Idempotent; never raises for a link that is down already.
        """
        report = None
        with self._lock:
            first = not self._closing
            self._closing = True
        if first and self.alive:
            try:
                report = self._request("bye", deadline or Deadline(30.0), {})
            except LabError:
                report = None
        self._stop_beating.set()
        self._channel.close()
        self._reader.join(5.0)
        return report

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, op: str, deadline: Deadline, arguments: Mapping[str, Any]) -> dict[str, Any]:
        slot = _Slot()
        with self._lock:
            if self._gone is not None:
                raise self._renewed(self._gone)
            number = next(self._numbers)
            self._pending[number] = slot
        try:
            try:
                frame = frames.encode_control({**arguments, "id": number, "op": op})
            except (TypeError, ValueError, frames.FrameError) as error:
                raise UsageError(
                    f"{op}: its arguments cannot be sent: {error}",
                    where=self.peer,
                    cure="pass JSON; bytes in base64, large files in pieces",
                ) from error
            self._send(frame)
            if not slot.done.wait(deadline.left()):
                raise LabError(
                    f"{op} was not answered within {deadline.seconds:g} s",
                    where=self.peer,
                    cure="raise its deadline; if the target hangs, see its console",
                )
        finally:
            with self._lock:
                self._pending.pop(number, None)
        if slot.reply is None:
            assert self._gone is not None
            raise self._renewed(self._gone)
        return self._result(op, slot.reply)

    def _result(self, op: str, reply: dict[str, Any]) -> dict[str, Any]:
        if reply.get("ok"):
            return dict(reply.get("result") or {})
        error = reply.get("error") or {}
        place = error.get("where")
        raise _KINDS.get(error.get("kind", ""), TargetError)(
            str(error.get("what") or f"{op} failed without a reason"),
            where=f"{self.peer}: {place}" if place else self.peer,
            cure=str(error.get("cure") or ""),
        )

    def _renewed(self, error: LabError) -> LabError:
        """The same error once more: one raised in several threads mixes their tracebacks."""
        return LabError(error.what, where=error.where, cure=error.cure)

    def _words(self) -> str:
        tail = self._channel.stderr_tail().strip()
        return f"; its stderr: {tail}" if tail else ""

    def _send(self, data: bytes) -> None:
        with self._send_lock:
            self._channel.send(data)

    def _open_stream(self, sink: Sink) -> tuple[int, threading.Event]:
        ended = threading.Event()
        with self._lock:
            stream = next(self._streams)
            self._sinks[stream] = (sink, ended)
        return stream, ended

    def _close_stream(self, stream: int) -> None:
        with self._lock:
            self._sinks.pop(stream, None)

    def _beat(self) -> None:
        frame = frames.encode_control({"event": "heartbeat"})
        while not self._stop_beating.wait(_BEAT):
            if time.monotonic() - self._heard > self._silence:
                self._fail(f"the agent was silent for {self._silence:g} s")
                self._channel.close()
                return
            try:
                self._send(frame)
            except LabError as error:
                self._fail(f"the agent cannot be reached: {error.what}")
                return

    def _read(self) -> None:
        why = "the reading thread failed"
        try:
            why = self._read_all()
        except (HarnessError, OSError) as error:
            # A sink's disk is full, most likely: no further evidence could be kept.
            why = f"what came from the agent could not be kept: {error}"
        finally:
            self._fail(why)

    def _read_all(self) -> str:
        """Until the end; why it ended."""
        problem, rest = self._read_greeting()
        if problem:
            return problem
        self._greeted.done.set()
        decoder = frames.FrameDecoder()
        try:
            received = decoder.feed(rest)
            while True:
                for stream, payload in received:
                    self._deliver(stream, payload)
                data = self._channel.recv(_PIECE)
                if not data:
                    return "the agent ended" + (" in mid-frame" if decoder.partial() else "")
                self._heard = time.monotonic()
                received = decoder.feed(data)
        except frames.FrameError as error:
            return f"the agent's stream is broken: {error}"

    def _read_greeting(self) -> tuple[str, bytes]:
        data = b""
        while len(data) < frames.GREETING_SIZE:
            piece = self._channel.recv(_PIECE)
            if not piece:
                said = f" after {data[:200]!r}" if data else ""
                return f"the agent ended before its greeting{said}", b""
            data += piece
        try:
            version = frames.parse_greeting(data[: frames.GREETING_SIZE])
        except frames.FrameError:
            return f"expected the agent's greeting, got {data[:200]!r}", b""
        if version != frames.PROTOCOL:
            return (
                f"the agent speaks protocol {version}, this harness {frames.PROTOCOL}: "
                "it is another version's"
            ), b""
        return "", data[frames.GREETING_SIZE :]

    def _deliver(self, stream: int, payload: bytes) -> None:
        if stream != frames.CONTROL:
            with self._lock:
                entry = self._sinks.get(stream)
            if entry is not None and payload:
                entry[0](payload)
            elif entry is not None:
                self._close_stream(stream)
                entry[1].set()
            return
        message = frames.parse_control(payload)
        if "event" in message:
            if message["event"] != "heartbeat" and self._on_event is not None:
                self._on_event(message)
            return
        with self._lock:
            slot = self._pending.get(message.get("id", 0))
        if slot is not None:
            slot.reply = message
            slot.done.set()

    def _fail(self, why: str) -> None:
        """The link is down: say so to all who wait.  The first reason counts."""
        error = LabError(
            f"{why}{self._words()}",
            where=self.peer,
            cure="check that the target is up, then connect again",
        )
        with self._lock:
            self._gone = self._gone or error
            slots = list(self._pending.values())
            sinks = list(self._sinks.values())
        for slot in slots:
            slot.done.set()
        for _, ended in sinks:
            ended.set()
        self._greeted.done.set()
        self._stop_beating.set()


class Collection:
    """A running collector."""

    def __init__(self, agent: Agent, stream: int, ended: threading.Event) -> None:
        self.stream = stream
        self._agent = agent
        self._ended = ended

    def stop(self, deadline: Deadline) -> None:
        """Stop it; all its bytes are in the sink on return.  Raises as Agent.call does."""
        self._agent.call("collect.stop", deadline, stream=self.stream)
        if not self._ended.wait(deadline.left()):
            raise LabError(
                f"stream {self.stream} did not end within {deadline.seconds:g} s",
                where=self._agent.peer,
                cure="raise the deadline; what came until now is kept",
            )


class Workload:
    """A workload process on the target.  As a context manager it is stopped at the end."""

    def __init__(self, agent: Agent, number: int, ready: dict[str, Any]) -> None:
        self.number = number
        self.ready = ready
        self._agent = agent
        self._stopped = False

    def call(self, op: str, deadline: Deadline, **arguments: Any) -> dict[str, Any]:
        """One of its driver's operations (harness/agent/workload/).  Raises as Agent.call does.

        The process itself is given a little less time than `deadline`, so that
        its own account of being late arrives.
        """
        return self._agent.call(
            "workload.call",
            deadline,
            workload=self.number,
            call=op,
            args=arguments,
            timeout=max(0.1, deadline.left() * 0.95),
        )

    def stop(self, deadline: Deadline | None = None) -> dict[str, Any]:
        """Release its hangs and end it: {"status", "signal", "how", "stderr"}.

        {} when it was stopped already or the agent, which then ends it itself, is gone.
        """
        if self._stopped or not self._agent.alive:
            return {}
        self._stopped = True
        return self._agent.call("workload.stop", deadline or Deadline(15.0), workload=self.number)

    def __enter__(self) -> Workload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Slot:
    """Where a caller waits for its reply; `done` without one: the link went down."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: dict[str, Any] | None = None


def _drop(_data: bytes) -> None:
    """The sink of whoever does not care."""
