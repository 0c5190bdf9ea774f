"""The frames between host and agent: one reading thread, one heartbeat.

Requests go out numbered and wait for their replies; streams go to their sinks.
A silent or closed link fails all who wait at once, naming target and cure.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.agent import frames
from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, UsageError
from harness.link.channel import ByteChannel

__all__ = ["Sink", "Wire"]

_BEAT = 1.0
_PIECE = 1 << 18

Sink = Callable[[bytes], None]


class Wire:
    """A greeted agent on a channel.  Thread-safe."""

    def __init__(
        self,
        channel: ByteChannel,
        deadline: Deadline,
        on_event: Callable[[dict[str, Any]], None] | None,
        silence: float,
    ) -> None:
        """See Agent.  Raises LabError."""
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
        self._stop_beating = threading.Event()
        self._heard = time.monotonic()
        self._greeted = _Slot()
        self._reader = threading.Thread(target=self._read, name="agent-reader", daemon=True)
        self._reader.start()
        try:
            with contextlib.suppress(LabError):  # what the reader sees then says more
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

    def request(self, op: str, deadline: Deadline, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The reply, good or bad.  Raises LabError, UsageError for what cannot be sent."""
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
        return slot.reply

    @property
    def heard(self) -> float:
        """When something last came from the agent, on time.monotonic."""
        return self._heard

    def lose(self, why: str) -> None:
        """The other end is known to be dead: whoever waits is told now.  From any thread."""
        self._fail(why)
        self._channel.close()

    def close(self) -> None:
        """Close the channel and wait for the reading thread.  Idempotent."""
        self._stop_beating.set()
        self._channel.close()
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)

    def _renewed(self, error: LabError) -> LabError:
        """The same error once more: one raised in several threads mixes their tracebacks."""
        return LabError(error.what, where=error.where, cure=error.cure)

    def _words(self) -> str:
        tail = self._channel.stderr_tail().strip()
        return f"; its stderr: {tail}" if tail else ""

    def _send(self, data: bytes) -> None:
        with self._send_lock:
            self._channel.send(data)

    def open_stream(self, sink: Sink) -> tuple[int, threading.Event]:
        """A new stream number whose bytes go to `sink`; the event is set at its end."""
        ended = threading.Event()
        with self._lock:
            stream = next(self._streams)
            self._sinks[stream] = (sink, ended)
        return stream, ended

    def close_stream(self, stream: int) -> None:
        """Forget a stream; what still comes of it is dropped."""
        with self._lock:
            self._sinks.pop(stream, None)

    def _beat(self) -> None:
        frame = frames.encode_control({"event": "heartbeat"})
        while not self._stop_beating.wait(min(_BEAT, self._patience())):
            if not self._patience():
                self._fail(f"the agent was silent for {self._silence:g} s")
                self._channel.close()
                return
            try:
                self._send(frame)
            except LabError as error:
                self._fail(f"the agent cannot be reached: {error.what}")
                return

    def _patience(self) -> float:
        """Seconds that it may still be silent."""
        return max(0.0, self._heard + self._silence - time.monotonic())

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
                self.close_stream(stream)
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


class _Slot:
    """Where a caller waits for its reply; `done` without one: the link went down."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: dict[str, Any] | None = None
