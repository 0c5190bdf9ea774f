"""The console of a target: read from before boot to after death, raw bytes first to disk.

A thread reads a source (serial port, command, QEMU's socket) whatever else the
harness does.  Nothing here silences the kernel: its last words come this way.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.console_source import Source
from harness.link.sockname import short

__all__ = ["Console", "attach", "interact", "log_file"]

_CHUNK = 1 << 16
# Bytes kept for messages ("last console lines"); the file has all of them.
_TAIL = 16 << 10
# Ctrl-], as telnet and virsh have it: nothing else on a keyboard sends it by accident.
ESCAPE = b"\x1d"


class Console:
    """One target's console.  Survives power cycles: each brings a new source."""

    def __init__(self, sink: Callable[[bytes], object], *, name: str) -> None:
        """`sink` gets all bytes first, in the reader's thread; what it raises is kept
        in `failure` and reading goes on, for a console not read blocks the machine."""
        self.name = name
        self.failure: OSError | None = None
        self.received = 0
        self._sink = sink
        self._tail = bytearray()
        self._changed = threading.Condition()
        self._listeners: list[Callable[[bytes], object]] = []
        self._source: Source | None = None
        self._reader: threading.Thread | None = None
        self._stop_r, self._stop_w = os.pipe()
        self._tap: socket.socket | None = None
        self._closed = False

    def attach(self, source: Source) -> None:
        """Read from `source` until it ends; the one before it must have ended."""
        self.detach()
        self._source = source
        self._reader = threading.Thread(
            target=self._read, args=(source,), name=f"console-{self.name}", daemon=True
        )
        self._reader.start()

    def detach(self) -> None:
        """Read what is left, then close the source.  Idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            os.write(self._stop_w, b"x")
            reader.join()
            os.read(self._stop_r, 1)
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def close(self) -> None:
        """Detach and stop serving.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.detach()
        if self._tap is not None:
            with contextlib.suppress(OSError):
                self._tap.shutdown(socket.SHUT_RDWR)
            self._tap.close()
        os.close(self._stop_r)
        os.close(self._stop_w)

    @property
    def attached(self) -> bool:
        """Whether a source is there and has not ended."""
        return self._reader is not None and self._reader.is_alive()

    def write(self, data: bytes) -> None:
        """Type `data`.  Raises LabError when there is no source or it is gone."""
        source = self._source
        if source is None:
            raise LabError("the console is closed", where=self.name, cure="power the target on")
        try:
            source.write(data)
        except OSError as error:
            raise LabError(
                f"cannot write to the console: {error}",
                where=self.name,
                cure="is the machine on, and its console cable plugged in?",
            ) from error

    def sysrq(self, key: str) -> bool:
        """A BREAK, then `key`: SysRq, where the kernel has its console there
        (Documentation/admin-guide/sysrq.rst).  False where the source cannot send one.

        Raises LabError as `write` does.
        """
        source = self._source
        try:
            if source is None or not source.send_break():
                return False
        except OSError as error:
            raise LabError(
                f"cannot send a BREAK on the console: {error}",
                where=self.name,
                cure="is its cable plugged in, its server up?",
            ) from error
        self.write(key.encode())
        return True

    def wait_ended(self, seconds: float | None = None) -> bool:
        """Whether the source has ended, at once or within `seconds`; without one it has."""
        reader = self._reader
        if reader is not None:
            reader.join(seconds)
        return not self.attached

    def tail(self, lines: int = 20) -> str:
        """The last `lines` lines, control characters made harmless."""
        with self._changed:
            text = self._tail.decode(errors="replace")
        printable = "".join(c if c.isprintable() or c == "\n" else "" for c in text)
        return "\n".join(printable.splitlines()[-lines:])

    def wait_received(self, more_than: int, deadline: Deadline) -> bool:
        """Whether more than so many bytes have come in all before the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: self.received > more_than, deadline.left())

    @contextlib.contextmanager
    def listening(self, listener: Callable[[bytes], object]) -> Iterator[None]:
        """Hand all that comes to `listener` too, after the sink, in the reader's thread."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def serve(self, path: Path) -> None:
        """Let other processes of this user watch and type through a socket at `path`.

        Raises LabError when it cannot be made.  Any number may come and go.
        """
        try:
            path.unlink(missing_ok=True)
            tap = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with short(path) as name:
                tap.bind(name)
            path.chmod(0o600)
            tap.listen(4)
        except OSError as error:
            raise LabError(
                f"cannot make the console's socket: {error}",
                where=str(path),
                cure="is the directory there and writable?",
            ) from error
        self._tap = tap
        threading.Thread(
            target=self._accept, args=(tap,), name=f"console-tap-{self.name}", daemon=True
        ).start()

    def _read(self, source: Source) -> None:
        poll = select.poll()
        poll.register(source.fileno(), select.POLLIN)
        poll.register(self._stop_r, select.POLLIN)
        stopping = False
        while True:
            ready = {fd for fd, _ in poll.poll(0 if stopping else None)}
            if source.fileno() in ready:
                data = source.read(_CHUNK)
                if data is None:
                    continue
                if not data:
                    return
                self._take(data)
            elif stopping:
                return
            if self._stop_r in ready and not stopping:
                stopping = True
                poll.unregister(self._stop_r)

    def _take(self, data: bytes) -> None:
        try:
            self._sink(data)
        except OSError as error:  # a full disk
            self.failure = self.failure or error
        with self._changed:
            self.received += len(data)
            self._tail += data
            del self._tail[:-_TAIL]
            self._changed.notify_all()
        for listener in list(self._listeners):
            listener(data)

    def _accept(self, tap: socket.socket) -> None:
        while True:
            try:
                client, _ = tap.accept()
            except OSError:
                return
            threading.Thread(
                target=self._guest, args=(client,), name=f"console-guest-{self.name}", daemon=True
            ).start()

    def _guest(self, client: socket.socket) -> None:
        client.setblocking(False)

        def show(data: bytes) -> None:
            # A guest that does not read loses output; the evidence never waits for it.
            with contextlib.suppress(OSError):
                client.send(data)

        with client, self.listening(show):
            poll = select.poll()
            poll.register(client, select.POLLIN)
            while not self._closed:
                if not poll.poll(500):
                    continue
                try:
                    data = client.recv(_CHUNK)
                    if not data:
                        return
                    self.write(data)
                except (OSError, LabError):
                    return


def log_file(path: Path) -> Callable[[bytes], object]:
    """A sink that appends to `path`, each write handed to the kernel at once.

    Raises LabError when it cannot be opened.
    """
    try:
        return open(path, "ab", buffering=0).write
    except OSError as error:
        raise LabError(
            f"cannot write the console log: {error}", where=str(path), cure="free or mend the disk"
        ) from error


def attach(path: Path) -> socket.socket:
    """A connection to a console that another process serves.  Raises LabError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(path) as name:
            sock.connect(name)
    except OSError as error:
        sock.close()
        raise LabError(
            f"nobody serves a console there: {error}",
            where=str(path),
            cure="is the machine running? start it with `lab run` or `lab power TARGET on`",
        ) from error
    return sock


def interact(sock: socket.socket, *, keyboard: int = 0, screen: int = 1) -> str:
    """Pass a terminal through to a console until Ctrl-]; returns why it ended.

    `keyboard` and `screen` are file descriptors; a terminal is put in raw mode
    and back.
    """
    before = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
    try:
        if before is not None:
            tty.setraw(keyboard)
        while True:
            ready, _, _ = select.select([sock.fileno(), keyboard], [], [])
            if sock.fileno() in ready:
                data = sock.recv(_CHUNK)
                if not data:
                    return "the console closed"
                while data:
                    data = data[os.write(screen, data) :]
            if keyboard in ready:
                keys, escape, _ = os.read(keyboard, 1024).partition(ESCAPE)
                if keys:
                    sock.sendall(keys)
                if escape:
                    return "you left"
                if not keys:
                    return "the keyboard closed"
    finally:
        if before is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
