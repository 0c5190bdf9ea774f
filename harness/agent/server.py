"""The agent's main loop: requests in, replies out, a heartbeat, and the end.

Whatever ends it (the controller says bye, closes, falls silent, or a signal),
everything set going is undone before it exits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from . import frames
from .arguments import Arguments
from .errors import AgentError, lab, target, usage
from .guard import Guard
from .operations import INLINE, OPERATIONS, Operation
from .outbox import Outbox
from .session import Session

__all__ = ["Server"]

_BEAT = 1.0
_PIECE = 1 << 16
_MAX_BUSY = 128
_GREETING_SECONDS = 30.0
_FLUSH_SECONDS = 5.0


class Server:
    """Serves one controller on two file descriptors, until it ends."""

    def __init__(self, receive: int, send: int, silence: float, guard: Guard | None = None) -> None:
        """`silence`: seconds without a word from the controller that count as its end."""
        self._receive = receive
        self._send = send
        self._silence = silence
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._why: str | None = None
        self._bye = False
        self._bye_number: Any = None
        self._busy = 0
        self._busy_lock = threading.Lock()
        self._outbox = Outbox(send, self._end)
        self._session = Session(self._outbox, guard)

    def serve(self) -> int:
        """Handshake, serve, undo; the exit status (0 when the controller said bye)."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        problem = self._greet()
        if problem:
            sys.stderr.write(f"agent: {problem}\n")
            return 3
        self._outbox.start()
        self._loop()
        killed = "signal" in (self._why or "")
        report = self._session.undo(self._why or "bye", self._bye, killed)
        if self._bye:
            self._reply(self._bye_number, report)
            self._outbox.flush(_FLUSH_SECONDS)
        else:
            sys.stderr.write(f"agent: ended: {self._why}; {report}\n")
            self._outbox.flush(_FLUSH_SECONDS if killed else 0.5)
            if not killed:
                self._linger()
        return 0 if self._bye else 1

    def _linger(self) -> None:
        """Where there is a watchdog: a successor ends us by a signal, or it bites."""
        os.set_blocking(self._wake_read, False)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _PIECE)  # what woke us until now
        self._session.watchdog.outlast(self._wake_read)

    def _end(self, why: str) -> None:
        """Make the main loop end; the first reason counts.  From any thread or a signal."""
        self._why = self._why or why
        with contextlib.suppress(BlockingIOError):  # it is full of wakes already
            os.write(self._wake_write, b"x")

    def _signalled(self, number: int, _frame: Any) -> None:
        self._end(f"signal {signal.Signals(number).name}")

    def _greet(self) -> str:
        """Exchange greetings; what is wrong with the peer's, or ""."""
        os.write(self._send, frames.greeting())
        data = b""
        end = time.monotonic() + _GREETING_SECONDS
        while len(data) < frames.GREETING_SIZE and self._why is None:
            ready = select.select(
                [self._receive, self._wake_read], [], [], max(0.0, end - time.monotonic())
            )[0]
            if not ready:
                return "the controller sent no greeting"
            if self._receive in ready:
                piece = os.read(self._receive, frames.GREETING_SIZE - len(data))
                if not piece:
                    return "the controller closed the channel before its greeting"
                data += piece
        if self._why is not None:
            return self._why
        try:
            version = frames.parse_greeting(data)
        except frames.FrameError as error:
            return str(error)
        if version != frames.PROTOCOL:
            return (
                f"the controller speaks protocol {version}, this agent {frames.PROTOCOL}: "
                "push the agent that belongs to this harness"
            )
        return ""

    def _loop(self) -> None:
        decoder = frames.FrameDecoder()
        heard = time.monotonic()
        beat = 0.0
        while self._why is None and not self._bye:
            now = time.monotonic()
            if now >= beat:
                self._outbox.control(
                    {"event": "heartbeat", "mono": time.clock_gettime_ns(time.CLOCK_MONOTONIC)}
                )
                beat = now + _BEAT
            if now - heard > self._silence:
                self._why = f"the controller was silent for {self._silence:g} s"
                break
            # A controller that takes no replies gets no further request read.
            inputs = [self._wake_read]
            if not self._outbox.congested():
                inputs.append(self._receive)
            ready = select.select(inputs, [], [], max(0.0, beat - now))[0]
            if self._receive not in ready:
                continue
            try:
                data = os.read(self._receive, _PIECE)
            except OSError as error:
                self._why = f"the controller cannot be read: {error}"
                break
            if not data:
                self._why = "the controller closed the channel"
                break
            heard = time.monotonic()
            try:
                self._handle(decoder.feed(data))
            except frames.FrameError as error:
                self._why = f"the controller's stream is broken: {error}"

    def _handle(self, received: list[tuple[int, bytes]]) -> None:
        for stream, payload in received:
            if stream != frames.CONTROL:
                raise frames.FrameError(f"nothing here reads stream {stream}")
            message = frames.parse_control(payload)
            if "op" not in message:
                continue  # a heartbeat, or an event of a later version
            number = message.pop("id", None)
            op = message.pop("op")
            if op == "bye":
                self._bye, self._bye_number = True, number
                return
            operation = OPERATIONS.get(op) if isinstance(op, str) else None
            if operation is None:
                known = ", ".join(sorted([*OPERATIONS, "bye"]))
                self._refuse(number, usage(f"no operation {op!r}", cure=f"one of: {known}"))
            elif op in INLINE:
                self._perform(number, operation, Arguments(op, message))
            elif not self._claim():
                self._refuse(
                    number, lab(f"{_MAX_BUSY} operations are busy", op, "wait for some to end")
                )
            else:
                threading.Thread(
                    target=self._perform_claimed,
                    args=(number, operation, Arguments(op, message)),
                    name=f"op-{op}",
                    daemon=True,
                ).start()

    def _claim(self) -> bool:
        with self._busy_lock:
            if self._busy >= _MAX_BUSY:
                return False
            self._busy += 1
            return True

    def _perform_claimed(self, number: Any, operation: Operation, arguments: Arguments) -> None:
        try:
            self._perform(number, operation, arguments)
        finally:
            with self._busy_lock:
                self._busy -= 1

    def _perform(self, number: Any, operation: Operation, arguments: Arguments) -> None:
        """Do it and answer: also when it fails in a way nobody foresaw."""
        answered = False
        try:
            self._reply(number, operation(self._session, arguments))
            answered = True
        except AgentError as error:
            self._refuse(number, error)
            answered = True
        except OSError as error:
            self._refuse(
                number,
                target(
                    f"{arguments.op} failed: {error.strerror or error}",
                    str(error.filename or ""),
                    "see the target's kernel log",
                    error.errno,
                ),
            )
            answered = True
        finally:
            if not answered:
                self._refuse(
                    number,
                    lab(
                        f"{arguments.op} failed within the agent: {sys.exc_info()[1]!r}",
                        cure="a bug in the agent; its stderr has the traceback",
                    ),
                )

    def _reply(self, number: Any, result: dict[str, Any]) -> None:
        self._outbox.control({"id": number, "ok": True, "result": result})

    def _refuse(self, number: Any, error: AgentError) -> None:
        self._outbox.control({"id": number, "ok": False, "error": error.wire()})
