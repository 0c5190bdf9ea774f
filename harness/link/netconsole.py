"""netconsole's receiver: what a target's kernel says by UDP, raw bytes first to disk.

A socket and a thread for each target, open over all its boots; only what comes from
the target's own addresses is its.  Bounded in rate, and nothing lost goes unsaid.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable

from harness.errors import HarnessError, LabError

__all__ = ["Netconsole"]

# Documentation/networking/netconsole.rst: a record that is too long for a packet comes in
# pieces that say so in their header and have no newline.
_FRAGMENT = b",ncfrag="
_LARGEST = 1 << 16
# Bytes that wait in the kernel while this thread does not run; it may grant fewer.
_BUFFER = 4 << 20
# A burst may have that many seconds of the rate: the first splat of a boot shall not be cut.
_BURST_S = 4.0
# include/uapi/asm-generic/socket.h: a count of the datagrams that found no room in the buffer.
_SO_RXQ_OVFL = 40
# Beyond the limit for everybody (net.core.rmem_max), for root.
_SO_RCVBUFFORCE = 33
_DRAIN_MS = 50


class Netconsole:
    """Receives one target's kernel log.  Survives its power cycles."""

    def __init__(
        self,
        sink: Callable[[bytes], object],
        *,
        name: str,
        port: int = 0,
        rate: int = 4 << 20,
        sources: Iterable[str] = (),
    ) -> None:
        """`sink` gets each datagram in the receiver's thread.  `port` 0: any free one; `rate`
        in bytes a second; `sources`: addresses that are the target's."""
        self.name = name
        self.port = port
        self.datagrams = 0
        """Taken so far."""
        self._sink = sink
        self._rate = float(rate)
        self._sources = set(sources)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._strangers: dict[str, int] = {}
        self._failed = ""
        self._over = 0
        self._overflow = 0
        self._told_overflow = 0
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stop_r = self._stop_w = -1

    def admit(self, *addresses: str) -> None:
        """These are the target's, too."""
        with self._lock:
            self._sources.update(addresses)

    def start(self) -> None:
        """Listen; `port` is known then.  Raises LabError where the port cannot be had."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            sock.bind(("", self.port))
        except OSError as error:
            sock.close()
            raise LabError(
                f"cannot listen for netconsole on UDP port {self.port}: {error.strerror}",
                where=self.name,
                cure="netconsole.port = 0 takes a free one; a fixed one serves one target only",
            ) from error
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._socket = sock
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(
            target=self._read, args=(sock,), name=f"netconsole-{self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Read what is there, then listen no more.  Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None or self._socket is None:
            return
        os.write(self._stop_w, b"x")
        thread.join()
        self._socket.close()
        os.close(self._stop_r)
        os.close(self._stop_w)

    def wait(self, more_than: int, seconds: float) -> bool:
        """Whether more than so many datagrams have been taken, within `seconds` at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self.datagrams > more_than, seconds)

    def remarks(self) -> list[str]:
        """What did not become evidence, since last asked."""
        with self._lock:
            told = []
            if self._failed:
                told.append(f"netconsole: {self._failed}")
            if self._over:
                told.append(
                    f"netconsole: {self._over} datagrams were dropped, beyond the"
                    f" {self._rate:g} bytes/s that are kept"
                )
            if lost := self._overflow - self._told_overflow:
                told.append(f"netconsole: {lost} datagrams were lost in this host's own buffer")
            for address, count in self._strangers.items():
                told.append(f"netconsole: {count} datagrams came from {address}, not this target")
            self._over, self._told_overflow, self._failed = 0, self._overflow, ""
            self._strangers.clear()
            return told

    def _read(self, sock: socket.socket) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._stop_r, select.POLLIN)
        tokens, when = self._rate * _BURST_S, time.monotonic()
        stopping = False
        while True:
            ready = {fd for fd, _ in poll.poll(_DRAIN_MS if stopping else None)}
            if sock.fileno() in ready:
                now = time.monotonic()
                tokens = min(self._rate * _BURST_S, tokens + (now - when) * self._rate)
                when = now
                tokens -= self._take(sock, tokens)
            elif stopping:
                return
            if self._stop_r in ready and not stopping:
                stopping = True
                poll.unregister(self._stop_r)

    def _take(self, sock: socket.socket, allowed: float) -> int:
        """One datagram; the bytes kept of it."""
        try:
            data, extra, _, (source, _) = sock.recvmsg(_LARGEST, 64)
        except OSError:  # what a host on the way answered to nothing of ours
            return 0
        with self._changed:
            for level, kind, value in extra:
                if (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                    self._overflow = struct.unpack("=I", value[:4])[0]
            if not data:
                return 0  # the agent's knock, which makes the kernel ask for our address
            if source not in self._sources:
                if source in self._strangers or len(self._strangers) < 8:
                    self._strangers[source] = self._strangers.get(source, 0) + 1
                return 0
            if len(data) > allowed:
                self._over += 1
                return 0
        # A piece of a record gets the newline it lacks, so that the file is lines.
        cut = _FRAGMENT in data[:256].partition(b";")[0] and not data.endswith(b"\n")
        try:
            self._sink(data + b"\n" if cut else data)
        except HarnessError as error:  # the next one may fit
            self._failed = error.what
        with self._changed:
            self.datagrams += 1
            self._changed.notify_all()
        return len(data)
