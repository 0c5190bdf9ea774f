"""One boot's raw streams: kmsg, uevents, console, netconsole, each on disk as it came.

A boot is pending until its boot_id is known; then the directory takes its name
and the streams go on.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import msgspec

from harness.deadline import Deadline
from harness.evidence.files import Stream, disk_error
from harness.evidence.packed import restore
from harness.evidence.rundir import RunDir

__all__ = ["Boot"]

_PIECE = 1 << 20


class Boot:
    """The open streams of the current boot.  Sinks may be called on any thread."""

    def __init__(self, run: RunDir, limit: int) -> None:
        """`limit` bytes for each stream."""
        self._run = run
        self._limit = limit
        self.boot_id = ""
        self.path: Path = run.pending_boot()
        self._console = self._open("console.log")
        self._netconsole: Stream | None = None
        # What comes while the directory gets its name, or after all is closed.
        self._moving = threading.Lock()
        self._closed = False
        self._streams = [self._console]
        self._arrived = threading.Condition()

    def name(self, boot_id: str) -> None:
        """The boot turned out to be `boot_id`: rename, and open its kmsg and uevents."""
        known = self._run.path / f"boot-{boot_id}"
        with self._moving:
            if known.exists():
                self._join(known)
            else:
                self.path = self._run.name_boot(self.path, boot_id)
        self.boot_id = boot_id
        self._kmsg = self._open("kmsg")
        self._uevents = self._open("uevents.jsonl")
        self._events = self._open("agent-events.jsonl")
        for stream in (self._kmsg, self._uevents, self._events):
            stream.begin_line()
            self._streams.append(stream)

    def _join(self, known: Path) -> None:
        """The same boot, reached again: its console and netconsole go on where they were."""
        pending, self.path = self.path, known
        self._streams = []
        self._console = self._append(self._console)
        if self._netconsole is not None:
            self._netconsole = self._append(self._netconsole)
        with contextlib.suppress(OSError):  # what could not be appended stays there
            pending.rmdir()

    def _append(self, cut: Stream) -> Stream:
        cut.close()
        whole = self._open(cut.path.name)
        self._streams.append(whole)
        if whole.path == cut.path:
            return whole  # joined already, by one that a full disk stopped on its way
        try:
            with cut.path.open("rb") as more:
                while piece := more.read(_PIECE):
                    whole.write(piece)
            if not whole.failed:
                cut.path.unlink()
        except OSError as error:
            raise disk_error(cut.path, error) from error
        return whole

    def _open(self, name: str) -> Stream:
        # Of a run that is resumed it may have been compressed: offsets into it must stay true.
        restore(self.path / name)
        return Stream(self.path / name, self._limit)

    def console(self, data: bytes) -> None:
        """Sink of the console."""
        with self._moving:
            self._console.write(data)

    def netconsole(self, data: bytes) -> None:
        """Sink of netconsole's datagrams; there is no file where there are none."""
        with self._moving:
            if self._closed:
                return
            if self._netconsole is None:
                self._netconsole = self._open("netconsole.log")
                self._streams.append(self._netconsole)
            self._netconsole.write(data)

    def kmsg(self, data: bytes) -> None:
        """Sink of raw /dev/kmsg records."""
        self._kmsg.write(data)
        with self._arrived:
            self._arrived.notify_all()

    @property
    def logged(self) -> int:
        """Bytes of the kernel log so far."""
        return self._kmsg.size

    def uevents(self, data: bytes) -> None:
        """Sink of uevents, JSON lines."""
        self._uevents.write(data)

    def event(self, event: object) -> None:
        """What the agent said of its collectors: kept beside the streams."""
        self._events.write(msgspec.json.encode(event) + b"\n")

    def wait_kmsg(self, logged: int, deadline: Deadline) -> None:
        """Until there is more of the kernel log than `logged` bytes, at most 50 ms or the
        deadline: a link that broke brings none."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._kmsg.size > logged, min(0.05, deadline.left()))

    @property
    def failed(self) -> bool:
        """Whether a stream lacks something: it is taken up again by a Boot of the same name."""
        return any(stream.failed for stream in self._streams)

    @property
    def full(self) -> bool:
        """Whether a stream is at its limit: nothing more is kept of this boot."""
        return any(stream.full for stream in self._streams)

    def check(self) -> None:
        """Raise what any stream met: a full disk, a limit."""
        for stream in self._streams:
            stream.check()

    def sync(self) -> None:
        """Bring all streams to the disk itself."""
        for stream in self._streams:
            stream.sync()

    def close(self) -> None:
        """Close all streams.  Idempotent."""
        with self._moving:
            self._closed = True
        for stream in self._streams:
            stream.close()
