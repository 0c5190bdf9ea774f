"""One workload process, as the agent sees it: requests, replies, its end.

Replies are matched by number, so a release gets through while a wait is still
waiting, and one that comes after its time limit confuses nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from typing import Any, Callable

from .commands import kill_group
from .credentials import Credentials
from .errors import AgentError, target

__all__ = ["Child"]

_LINE_LIMIT = 1 << 20
_TAIL = 8 << 10
_PATIENCE = 2.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Child:
    """A started workload.  `diary` receives its stderr bytes as they come, b"" at the end."""

    def __init__(
        self,
        argv: list[str],
        fds: list[int],
        who: Credentials,
        name: str,
        diary: Callable[[bytes], Any],
    ) -> None:
        self.name = name
        self._diary = diary
        self._lock = threading.Lock()
        self._slots: dict[int, Any] = {0: queue.SimpleQueue()}
        self._next = 1
        self._ended = False
        self._tail = bytearray()
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=fds,
                user=who.uid,
                group=who.gid,
                extra_groups=who.groups,
                cwd="/",
                env=_ENVIRONMENT,
            )
        except OSError as error:
            raise target(
                f"the workload cannot be started: {error.strerror}",
                argv[0],
                f"python must be executable for uid {who.uid}",
                error.errno,
            ) from error
        self._readers = [
            threading.Thread(target=self._read_replies, name=f"{name}-replies", daemon=True),
            threading.Thread(target=self._read_stderr, name=f"{name}-stderr", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def ready(self, seconds: float) -> dict[str, Any]:
        """What it says of itself once its device is open.  Raises AgentError."""
        return self._answer(0, self._slots[0], "start", seconds)

    def call(self, op: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One operation's result.  Raises AgentError: its own, or that it died or was late."""
        slot: Any = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise self._death()
            number = self._next
            self._next += 1
            self._slots[number] = slot
        self._send({"id": number, "op": op, "args": arguments})
        return self._answer(number, slot, op, seconds)

    def stderr_tail(self) -> str:
        """The last 8 KiB it wrote to stderr."""
        return bytes(self._tail).decode("utf-8", "replace")

    def stop(self) -> dict[str, Any]:
        """End it: {"status", "signal", "how", "stderr"}.

        Its stdin's end makes it release its hangs and leave; then SIGTERM, then
        SIGKILL.  `how` is closed, sigterm, sigkill, or stuck: not even that.
        """
        how = "stuck"
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it may be gone already
            self.process.stdin.close()
        for step, number in (
            ("closed", None),
            ("sigterm", signal.SIGTERM),
            ("sigkill", signal.SIGKILL),
        ):
            if number is not None:
                kill_group(self.process.pid, number)
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                continue
            how = step
            break
        for reader in self._readers:
            reader.join(0.5)
        code = self.process.returncode
        return {
            "status": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "how": how,
            "stderr": self.stderr_tail(),
        }

    def _send(self, request: dict[str, Any]) -> None:
        data = json.dumps(request).encode() + b"\n"
        assert self.process.stdin is not None
        try:
            with self._lock:
                view = memoryview(data)
                while view:
                    view = view[os.write(self.process.stdin.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise self._death() from error

    def _answer(self, number: int, slot: Any, op: str, seconds: float) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = slot.get(timeout=seconds)
        except queue.Empty:
            raise target(
                f"{op} gave no answer within {seconds:g} s{self._last_words()}",
                self.name,
                "raise its timeout, or stop the workload",
            ) from None
        finally:
            with self._lock:
                self._slots.pop(number, None)
        if reply.get("ended"):
            raise self._death()
        if not reply.get("ok"):
            error = AgentError.unwire(reply.get("error") or {})
            error.where = error.where or self.name
            raise error
        return dict(reply.get("result") or {})

    def _death(self) -> AgentError:
        try:
            code: int | None = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            code = None
        how = "closed its output" if code is None else f"ended with status {code}"
        for reader in self._readers:
            if reader is not threading.current_thread():
                reader.join(0.5)
        return target(f"the workload process {how}{self._last_words()}", self.name, "start another")

    def _last_words(self) -> str:
        tail = self.stderr_tail().strip()
        return f"; its stderr: {tail}" if tail else ""

    def _read_replies(self) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                line = self.process.stdout.readline(_LINE_LIMIT)
                if not line:
                    break
                try:
                    reply = json.loads(line)
                    number = reply["id"]
                except (ValueError, KeyError, TypeError):
                    self._remember(b"not a reply: " + line[:200] + b"\n")
                    continue
                with self._lock:
                    slot = self._slots.get(number)
                if slot is not None:
                    slot.put(reply)
        finally:
            with self._lock:
                self._ended = True
                slots = list(self._slots.values())
            for slot in slots:
                slot.put({"ended": True})

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while True:
            piece = os.read(self.process.stderr.fileno(), 4096)
            if not piece:
                break
            self._remember(piece)
            self._diary(piece)
        self._diary(b"")

    def _remember(self, piece: bytes) -> None:
        self._tail += piece
        del self._tail[:-_TAIL]
