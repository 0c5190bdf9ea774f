"""The agent, seen from the host: calls, collectors and workloads.

What there is to call, with arguments and results, is in harness/agent/operations.py;
what a workload can do in harness/agent/workload/.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError, UsageError
from harness.link.channel import ByteChannel
from harness.link.wire import Sink, Wire

__all__ = ["Agent", "Collection", "Workload"]

_KINDS: Mapping[str, type[HarnessError]] = {
    "usage": UsageError,
    "target": TargetError,
    "lab": LabError,
}


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
        self._wire = Wire(channel, deadline, on_event, silence)
        self._lock = threading.Lock()
        self._closing = False

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        return self._wire.alive

    @property
    def heard(self) -> float:
        """When something last came from it, on time.monotonic."""
        return self._wire.heard

    def lose(self, why: str) -> None:
        """It is known to be dead: all calls fail now.  From any thread."""
        self._wire.lose(why)

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
        stream, ended = self._wire.open_stream(sink)
        try:
            self._request("collect", deadline, {"what": what, "stream": stream, **arguments})
        except HarnessError:
            self._wire.close_stream(stream)
            raise
        return Collection(self, stream, ended)

    def workload(
        self,
        driver: str,
        node: str,
        deadline: Deadline,
        *,
        stderr: Sink | None = None,
        passing: Sequence[str] = (),
        **arguments: Any,
    ) -> Workload:
        """Start a workload process; see workload_start in harness/agent/operations.py.

        `stderr` gets what it writes there, on the reading thread; `passing` are files
        that root opens for it, such as sw_sync.  Raises as `call` does.
        """
        stream, _ = self._wire.open_stream(stderr or _drop)
        wanted = {
            "driver": driver,
            "node": node,
            "stream": stream,
            "pass": list(passing),
            **arguments,
        }
        try:
            started = self._request("workload.start", deadline, wanted)
        except HarnessError:
            self._wire.close_stream(stream)
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
        self._wire.close()
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
        reply = self._wire.request(op, deadline, arguments)
        if reply.get("ok"):
            return dict(reply.get("result") or {})
        error = reply.get("error") or {}
        place = error.get("where")
        raise _KINDS.get(error.get("kind", ""), TargetError)(
            str(error.get("what") or f"{op} failed without a reason"),
            where=f"{self.peer}: {place}" if place else self.peer,
            cure=str(error.get("cure") or ""),
        )


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


def _drop(_data: bytes) -> None:
    """The sink of whoever does not care."""
