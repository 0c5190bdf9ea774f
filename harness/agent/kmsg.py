"""The kernel log: raw records out of /dev/kmsg, and marks into it.

Facts from kernel/printk/printk.c (devkmsg_read, devkmsg_write): one read is one
record; EPIPE says that unread records were overwritten, and the next read
returns the oldest left; user writes are rate-limited per open file.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import Any

from .collector import Collector, Sink
from .errors import target, usage

__all__ = ["KmsgCollector", "mark", "say"]

_DEVICE = "/dev/kmsg"
_RECORD = 8192
_BATCH = 1 << 16
_TEXT_LIMIT = 800
_INFO = 6
_WARNING = 4


def say(text: str, level: int = _WARNING) -> None:
    """Write one `lab: ` line to the kernel log.

    Opened anew each time: the kernel drops a file's eleventh line within five
    seconds without an error, and every open file starts its own count.
    Raises OSError.
    """
    fd = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        # Without a line end the record stays open for continuation, and no reader sees it
        # before the next one comes (kernel/printk/printk.c, vprintk_store).
        os.write(fd, f"<{level}>lab: {text}\n".encode("utf-8", "replace"))
    finally:
        os.close(fd)


def mark(text: str) -> int:
    """Write `lab: TEXT mono=NANOSECONDS`; CLOCK_MONOTONIC just before the write, in ns.

    Raises AgentError: usage for text that is long or has line ends, target when
    /dev/kmsg cannot be written.
    """
    if len(text.encode()) > _TEXT_LIMIT or any(ord(letter) < 32 for letter in text):
        raise usage(
            f"a mark is one line of at most {_TEXT_LIMIT} bytes", cure="shorten it; no line ends"
        )
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    try:
        say(f"{text} mono={now}", _INFO)
    except OSError as error:
        raise _refused("written", error) from error
    return now


def _refused(verb: str, error: OSError) -> Exception:
    return target(
        f"cannot be {verb}: {error.strerror}",
        _DEVICE,
        "run the agent as root; printk.devkmsg=off on the kernel's command line forbids writing",
        error.errno,
    )


class KmsgCollector(Collector):
    """Sends records exactly as read, several in a frame when several are waiting."""

    def __init__(self, stream: int, sink: Sink, start: str) -> None:
        super().__init__(stream, sink, "kmsg")
        if start not in ("start", "end"):
            raise usage(f"from is {start!r}", cure="pass from: start or end")
        try:
            self._fd = os.open(_DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refused("read", error) from error
        if start == "end":
            os.lseek(self._fd, 0, os.SEEK_END)
        self._last: int | None = None
        self._overrun = False

    def collect(self) -> None:
        """Until stopped.  A slow controller leaves the records in the kernel's buffer."""
        try:
            batch = bytearray()
            while not self.stopping:
                record = self._read()
                if record is not None:
                    batch += record
                if batch and (record is None or len(batch) >= _BATCH):
                    if not self.send(bytes(batch)):
                        return
                    batch.clear()
                if record is None:
                    select.select([self._fd, self.wake_fd], [], [])
            # The last words before the stop are evidence, too.
            record = self._read()
            while record is not None and len(batch) < _BATCH * 16:
                batch += record
                record = self._read()
            if batch:
                self.send(bytes(batch))
        finally:
            os.close(self._fd)

    def _read(self) -> bytes | None:
        """The next record; None when there is none yet."""
        while True:
            try:
                record = os.read(self._fd, _RECORD)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self._overrun = True
                continue
            sequence = _sequence(record)
            if self._overrun:
                self._overrun = False
                self.event(self._loss(sequence))
            self._last = sequence
            return record if record.endswith(b"\n") else record + b"\n"

    def _loss(self, sequence: int | None) -> dict[str, Any]:
        known = self._last is not None and sequence is not None
        return {
            "event": "kmsg_lost",
            "stream": self.stream,
            "after": self._last,
            "next": sequence,
            "lost": sequence - self._last - 1 if known else None,  # type: ignore[operator]
        }


def _sequence(record: bytes) -> int | None:
    """The second field of `level,sequence,microseconds,flags[,more];text`.

    Source: Documentation/ABI/testing/dev-kmsg.
    """
    fields = record[:64].split(b",", 2)
    return int(fields[1]) if len(fields) == 3 and fields[1].isdigit() else None
