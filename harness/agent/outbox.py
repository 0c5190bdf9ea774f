"""What waits to be sent to the controller, in bounded memory.

One thread writes; everybody else queues.  A slow controller stops the
collector whose share is full, and nobody else: control goes first, then the
streams in turn.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import Any, Callable

from . import frames

__all__ = ["Outbox"]

_STREAM_SHARE = 1 << 20
_CONTROL_HIGH = 32 << 20


class Outbox:
    """Frames on their way to file descriptor `fd`.

    `gone` is called once, from the writing thread, when the other end is gone.
    """

    def __init__(self, fd: int, gone: Callable[[str], None]) -> None:
        self._fd = fd
        self._gone = gone
        self._lock = threading.Condition()
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._streams: dict[int, deque[bytes]] = {}
        self._stream_bytes: dict[int, int] = {}
        self._turn: deque[int] = deque()
        self._writing = False
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def control(self, message: dict[str, Any]) -> None:
        """Queue a reply or an event.  Never waits: see `congested`."""
        data = frames.encode_control(message)
        with self._lock:
            if self._closed or self._write_now(data):
                return
            self._control.append(data)
            self._control_bytes += len(data)
            self._lock.notify_all()

    def congested(self) -> bool:
        """Whether so many replies wait that no further request should be read."""
        return self._control_bytes > _CONTROL_HIGH

    def put(self, stream: int, payload: bytes) -> bool:
        """Queue bytes of a stream, waiting for room.  False when the controller is gone.

        An empty payload ends the stream and waits for nobody.
        """
        data = frames.encode(stream, payload)
        with self._lock:
            while (
                not self._closed and payload and self._stream_bytes.get(stream, 0) > _STREAM_SHARE
            ):
                self._lock.wait()
            if self._closed:
                return False
            if stream not in self._streams:
                self._streams[stream] = deque()
                self._stream_bytes[stream] = 0
            if not self._streams[stream]:
                self._turn.append(stream)
            self._streams[stream].append(data)
            self._stream_bytes[stream] += len(data)
            self._lock.notify_all()
        return True

    def flush(self, seconds: float) -> bool:
        """Wait until all is written; False when `seconds` were not enough."""
        end = time.monotonic() + seconds
        with self._lock:
            while (self._control or self._turn or self._writing) and not self._closed:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._lock.wait(left)
        return not self._closed

    def close(self) -> None:
        """Drop what waits and wake whoever waits for room.  Idempotent."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _write_now(self, data: bytes) -> bool:
        """Write a small reply without waking the writer, when that cannot wait.

        The lock is held.  A pipe that select calls writable takes PIPE_BUF bytes at
        once (pipe(7)); an error is left for the writer to meet and report.
        """
        if self._writing or self._control or self._turn or len(data) > select.PIPE_BUF:
            return False
        if not select.select([], [self._fd], [], 0)[1]:
            return False
        try:
            self._write_all(data)
        except OSError:
            return False
        return True

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _next(self) -> list[bytes]:
        """What to write next; the lock is held."""
        if self._control:
            batch = list(self._control)
            self._control.clear()
            self._control_bytes = 0
            return batch
        stream = self._turn.popleft()
        queue = self._streams[stream]
        data = queue.popleft()
        self._stream_bytes[stream] -= len(data)
        if queue:
            self._turn.append(stream)
        else:
            del self._streams[stream]
            del self._stream_bytes[stream]
        return [data]

    def _write(self) -> None:
        while True:
            with self._lock:
                while not (self._control or self._turn or self._closed):
                    self._lock.wait()
                if self._closed:
                    return
                batch = self._next()
                self._writing = True
                self._lock.notify_all()
            try:
                self._write_all(b"".join(batch))
            except OSError as error:
                self.close()
                self._gone(f"the controller cannot be written to: {error}")
                return
            with self._lock:
                self._writing = False
                self._lock.notify_all()
