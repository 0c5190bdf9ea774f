"""The kernel's trace: raw ring-buffer pages of each CPU, sent as they fill.

One thread reads all CPUs.  What was recorded is on its way after `_PERIOD_MS`,
sooner where a buffer fills, so that a machine that dies leaves its last second.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence
from typing import Any

from .collector import Sink
from .errors import AgentError, target, usage
from .probes import PROBES, Probe
from .tracefs import DEFAULT_EVENTS, Instance, find_root, sweep

__all__ = ["Trace"]

# A page is sent whole however little is in it, so reading more often costs the link.
_PERIOD_MS = 400
# Between two rounds in a storm: the kernel may call a buffer readable at its first event.
_PAUSE_S = 0.02
_BATCH_PAGES = 16
_SYNC_SECONDS = 10.0
_LAST_SECONDS = 2.0


class Trace:
    """The trace of one session, started once and stopped at its end at the latest."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._instance: Instance | None = None
        self._reader: _Reader | None = None
        self._comms: dict[int, str] = {}

    def start(
        self, buffer_kb: int, events: list[str], probes: Sequence[Probe] = ()
    ) -> dict[str, Any]:
        """Record from now on; see operations.trace_start.  Raises AgentError."""
        with self._lock:
            if self._instance is not None:
                raise usage("the trace is on already", cure="trace.stop comes first")
            root = find_root()
            sweep(root)
            instance = Instance(root, buffer_kb, [*DEFAULT_EVENTS, *events], [*PROBES, *probes])
            try:
                cpus, page_size, formats = (
                    instance.cpus(),
                    instance.page_size(),
                    instance.formats(),
                )
                self._reader = _Reader(instance.path, cpus, page_size, buffer_kb, self._sink)
            except (OSError, AgentError):
                instance.remove()
                raise
            self._instance = instance
            self._reader.start()
        return {
            "cpus": cpus,
            "page_size": page_size,
            "meta": {
                "page_size": page_size,
                "clock": "mono",
                "cpus": cpus,
                "buffer_kb": buffer_kb,
                "events": instance.events,
                "probes": instance.probes,
            },
            "formats": formats,
            "stats": self._stats(instance, cpus, time.monotonic_ns()),
        }

    def attach(self, cpu: int, stream: int) -> None:
        """Send that CPU's pages on `stream`.  Raises AgentError (usage)."""
        self._running()[1].attach(cpu, stream)

    def sync(self) -> dict[str, Any]:
        """See operations.trace_sync.  Raises AgentError (target) when the reader is behind."""
        instance, reader = self._running()
        mono = time.monotonic_ns()
        sent = reader.sync(_SYNC_SECONDS)
        names = instance.comms()
        news = {pid: comm for pid, comm in names.items() if self._comms.get(pid) != comm}
        self._comms.update(news)
        return {
            "mono": mono,
            "sent": {str(cpu): count for cpu, count in sent.items()},
            "stats": self._stats(instance, list(sent), mono),
            "comms": {str(pid): comm for pid, comm in news.items()},
            "missed": instance.missed(),
            "gone": instance.gone(),
        }

    def stop(self) -> dict[str, Any]:
        """Send the rest, end the streams, remove the instance; idempotent.

        {"stats": the last of all, "sent": {cpu: bytes}}.  Raises AgentError (target) for
        what would not go away: the next agent's trace.start tries again.
        """
        with self._lock:
            instance, reader = self._instance, self._reader
            self._instance = self._reader = None
        if instance is None or reader is None:
            return {"stats": [], "sent": {}}
        sent = reader.stop(_LAST_SECONDS)
        stats = self._stats(instance, list(sent), time.monotonic_ns())
        instance.remove()
        return {"stats": stats, "sent": {str(cpu): count for cpu, count in sent.items()}}

    def _running(self) -> tuple[Instance, _Reader]:
        with self._lock:
            if self._instance is None or self._reader is None:
                raise usage("the trace is off", cure="trace.start comes first")
            return self._instance, self._reader

    def _stats(self, instance: Instance, cpus: list[int], mono: int) -> list[dict[str, int]]:
        return [{"mono": mono, "cpu": cpu, **instance.stats(cpu)} for cpu in cpus]


class _Reader(threading.Thread):
    """Reads trace_pipe_raw of every CPU that has a stream."""

    def __init__(
        self, path: str, cpus: list[int], page_size: int, buffer_kb: int, sink: Sink
    ) -> None:
        super().__init__(name="trace", daemon=True)
        self._sink = sink
        self._page_size = page_size
        # As much as was in a buffer when a round began: a storm cannot make it endless.
        self._most = buffer_kb * 1024 // page_size + 2
        self._sent = dict.fromkeys(cpus, 0)
        self._streams: dict[int, int] = {}
        self._files: dict[int, int] = {}
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._stopping = False
        self._wake_fd, self._waker = os.pipe()
        self._poller = select.poll()
        self._poller.register(self._wake_fd, select.POLLIN)
        for cpu in cpus:
            self._files[cpu] = os.open(
                f"{path}/per_cpu/cpu{cpu}/trace_pipe_raw",
                os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC,
            )

    def attach(self, cpu: int, stream: int) -> None:
        with self._changed:
            if cpu not in self._sent or cpu in self._streams:
                known = ", ".join(str(one) for one in self._sent if one not in self._streams)
                raise usage(f"cpu {cpu} cannot be collected", cure=f"one of: {known or 'none'}")
            self._streams[cpu] = stream
            self._poller.register(self._files[cpu], select.POLLIN)
        self._wake()

    def sync(self, seconds: float) -> dict[int, int]:
        """Have everything recorded before this call sent; bytes sent so far, by CPU."""
        with self._changed:
            self._asked += 1
            wanted = self._asked
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: self._done >= wanted or self._stopping, seconds)
            if self._done < wanted:
                raise target(
                    f"the trace could not be sent within {seconds:g} s",
                    cure="the link is too slow for it: trace less, or raise trace_buffer_kb",
                )
            return dict(self._sent)

    def stop(self, seconds: float) -> dict[int, int]:
        """End, after a last round if the controller takes it in time; the files are closed."""
        self._stopping = True
        self._wake()
        self.join(seconds)
        with self._changed:
            for fd in self._files.values():
                os.close(fd)
            self._files.clear()
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            self._sink.put(stream, b"")
        return dict(self._sent)

    def run(self) -> None:
        """Rounds until stopped, and one after that for the last words."""
        going = True
        while going:
            self._poller.poll(_PERIOD_MS)
            going = not self._stopping
            # First this: who asks after it wakes the next round.
            if select.select([self._wake_fd], [], [], 0)[0]:
                os.read(self._wake_fd, 4096)
            with self._changed:
                asked = self._asked
                streams = dict(self._streams)
            for cpu, stream in streams.items():
                if not self._drain(cpu, stream):
                    return
            with self._changed:
                self._done = asked
                self._changed.notify_all()
            if asked == self._asked and going:
                select.select([self._wake_fd], [], [], _PAUSE_S)  # who asks need not wait for it

    def _drain(self, cpu: int, stream: int) -> bool:
        """Send what `cpu` has; False when nobody reads, or the files are closed."""
        left = self._most
        while left > 0:
            pages = self._pages(cpu, min(_BATCH_PAGES, left))
            if pages is None:
                return False
            if not pages:
                return True
            if not self._sink.put(stream, b"".join(pages)):
                return False
            left -= len(pages)
            self._sent[cpu] += len(pages) * self._page_size
        return True

    def _pages(self, cpu: int, most: int) -> list[bytes] | None:
        pages: list[bytes] = []
        with self._changed:
            fd = self._files.get(cpu)
            if fd is None:
                return None
            while len(pages) < most:
                try:
                    page = os.read(fd, self._page_size)
                except BlockingIOError:
                    break
                except OSError as error:
                    self._give_up(cpu, error)
                    break
                if not page:
                    break
                pages.append(page.ljust(self._page_size, b"\0"))
        return pages

    def _give_up(self, cpu: int, error: OSError) -> None:
        """A CPU that went offline, say: the others go on."""
        stream = self._streams.pop(cpu, 0)
        self._poller.unregister(self._files[cpu])
        self._sink.control(
            {
                "event": "collector_failed",
                "stream": stream,
                "what": f"trace of cpu {cpu}",
                "why": str(error),
            }
        )

    def _wake(self) -> None:
        os.write(self._waker, b"x")
