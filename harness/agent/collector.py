"""What every collector is: a thread that fills one stream until it is stopped.

A thread each, so that one that blocks delays no other.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

from .errors import AgentError

__all__ = ["Collector", "Sink"]


class Sink(Protocol):
    """Where a collector's bytes and events go: the outbox."""

    def put(self, stream: int, payload: bytes) -> bool:
        """Queue bytes, waiting for room; empty ends the stream.  False when nobody reads."""

    def control(self, message: dict[str, Any]) -> None:
        """Queue an event."""


class Collector(threading.Thread):
    """Subclasses fill in `collect`, which returns soon after `wake_fd` is readable."""

    def __init__(self, stream: int, sink: Sink, what: str) -> None:
        super().__init__(name=f"collect-{what}", daemon=True)
        self.stream = stream
        self.what = what
        self._sink = sink
        self.stopping = False
        self.wake_fd, self._waker = os.pipe()

    def collect(self) -> None:
        """Send until stopped.  OSError or AgentError end the stream, and an event says so."""
        raise NotImplementedError

    def send(self, payload: bytes) -> bool:
        """Bytes of the stream; False when the controller is gone."""
        return self._sink.put(self.stream, payload)

    def event(self, message: dict[str, Any]) -> None:
        """An unsolicited message beside the stream."""
        self._sink.control(message)

    def run(self) -> None:
        """The thread: collect, say why it ended if on its own, end the stream."""
        try:
            self.collect()
        except (OSError, AgentError) as error:
            self.event(
                {
                    "event": "collector_failed",
                    "stream": self.stream,
                    "what": self.what,
                    "why": str(error),
                }
            )
        finally:
            self._sink.put(self.stream, b"")

    def stop(self) -> None:
        """Ask it to end; its stream ends with an empty frame.  Idempotent."""
        if not self.stopping:
            self.stopping = True
            os.write(self._waker, b"x")
