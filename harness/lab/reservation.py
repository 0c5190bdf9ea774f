"""Who holds a target on this host: one file a target, renewed while its holder lives.

A holder that died, or that no longer renews, is taken over; nobody has to clean
up after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.errors import LabError, UsageError

__all__ = ["Holder", "Reservation", "folder", "started"]

_LOG = logging.getLogger(__name__)
# As harness.inventory has it: the name becomes part of a file's name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Holder(Struct, frozen=True, kw_only=True):
    """What a lock file says."""

    target: str
    user: str
    pid: int
    pid_started: int
    """Clock ticks from boot to the start of `pid` (proc(5), stat): pids are used again."""
    host: str
    command: str
    since: float
    """Seconds since the epoch, as `expires`."""
    expires: float
    token: str

    def stale(self) -> str:
        """Why this no longer holds; "" when it does."""
        if self.host == socket.gethostname() and started(self.pid) != self.pid_started:
            return f"pid {self.pid} is dead"
        late = time.time() - self.expires
        return f"not renewed for {late:.0f} s" if late > 0 else ""

    def told(self) -> str:
        """In words: who, which process, since when, doing what."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.user}, pid {self.pid} on {self.host}, since {since}: {self.command}"


class Reservation:
    """A target that is ours until `release`, or until someone breaks the lock."""

    def __init__(self, mine: Holder, ttl_s: float, taken_over: str) -> None:
        """Made by `take`."""
        self.taken_over = taken_over
        """Whose stale lock was taken over and why it was stale, in words; "" when none was."""
        self._mine = mine
        self._ttl_s = ttl_s
        self._done = threading.Event()
        self._lost = ""
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    @classmethod
    def take(cls, target_name: str, command: str, ttl_s: float = 60.0) -> Reservation:
        """Take the target, for `ttl_s` seconds at a time; a thread renews it until `release`.

        Raises LabError when another process holds it (or this one already does),
        naming who, or when the lock cannot be written.
        """
        now = time.time()
        mine = Holder(
            target=target_name,
            user=getpass.getuser(),
            pid=os.getpid(),
            pid_started=started(os.getpid()),
            host=socket.gethostname(),
            command=command,
            since=now,
            expires=now + ttl_s,
            token=secrets.token_hex(8),
        )
        with _guard(target_name) as path:
            before = _read(path)
            why = before.stale() if isinstance(before, Holder) else before
            if isinstance(before, Holder) and not why:
                raise LabError(
                    f"held by {before.told()}",
                    where=target_name,
                    cure=f"wait for it, or stop it; if it is stuck, `lab unlock {target_name}`",
                )
            _write(path, mine)
        taken_over = ""
        if why:
            who = f" of {before.told()}" if isinstance(before, Holder) else ""
            taken_over = f"{target_name}: took over a stale lock{who} ({why})"
            _LOG.warning("%s", taken_over)
        return cls(mine, ttl_s, taken_over)

    @staticmethod
    def holder(target_name: str) -> Holder | None:
        """Who holds the target now; None when nobody does, or only a stale lock is left."""
        with _guard(target_name) as path:
            found = _read(path)
        return found if isinstance(found, Holder) and not found.stale() else None

    @staticmethod
    def break_lock(target_name: str) -> Holder | None:
        """Free the target whoever holds it; returns who did.  The holder learns by `check`."""
        with _guard(target_name) as path:
            found = _read(path)
            path.unlink(missing_ok=True)
        return found if isinstance(found, Holder) else None

    def check(self) -> None:
        """Look now.  Raises LabError when the target is not ours any more."""
        if not self._lost and not self._done.is_set():
            self._look(renew=False)
        if self._lost:
            raise LabError(
                f"the reservation is lost: {self._lost}",
                where=self._mine.target,
                cure="stop using the target; see `lab targets` for who holds it",
            )

    def release(self) -> None:
        """Give the target back.  Idempotent; leaves a lock alone that others took meanwhile."""
        if self._done.is_set():
            return
        self._done.set()
        if self._renewer is not threading.current_thread():
            self._renewer.join()
        with _guard(self._mine.target) as path:
            found = _read(path)
            if isinstance(found, Holder) and found.token == self._mine.token:
                path.unlink(missing_ok=True)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._lost and not self._done.wait(self._ttl_s / 3):
            try:
                self._look(renew=True)
            except LabError as error:
                # A full disk may have room again before the lock expires.
                _LOG.warning("cannot renew: %s", error)

    def _look(self, *, renew: bool) -> None:
        with _guard(self._mine.target) as path:
            found = _read(path)
            if isinstance(found, Holder) and found.token == self._mine.token:
                if renew:
                    fresh = msgspec.structs.replace(self._mine, expires=time.time() + self._ttl_s)
                    _write(path, fresh)
            elif isinstance(found, Holder):
                self._lost = f"taken by {found.told()}"
            else:
                self._lost = "someone broke the lock"


def folder() -> Path:
    """$XDG_STATE_HOME/tdrlab/locks, by default below ~/.local/state."""
    # The XDG base directory specification: a relative path there is to be ignored.
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "tdrlab" / "locks"


@contextlib.contextmanager
def _guard(name: str) -> Iterator[Path]:
    """The path of the lock of `name`, while no other process or thread looks at it."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"not a target's name: {name!r}", cure="see `lab targets`")
    path = folder() / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file of its own, never renamed or removed: flock goes by inode.
        guard = os.open(path.with_suffix(".guard"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(name, path.parent, error) from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield path
    except OSError as error:
        raise _unusable(name, path, error) from error
    finally:
        os.close(guard)


def _read(path: Path) -> Holder | str:
    """Who the file names; else why it names nobody, "" when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except FileNotFoundError:
        return ""
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"unreadable: {error}"


def _write(path: Path, holder: Holder) -> None:
    # Renamed into place: a reader without the guard (less, a backup) never sees half of it.
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(holder), indent=2) + b"\n")
    part.rename(path)


def started(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The second field, the name in brackets, may hold blanks and brackets.
    fields = text.rpartition(")")[2].split()
    # A zombie holds nothing; its parent has merely not asked yet.
    return 0 if fields[0] in "ZX" else int(fields[19])


def _unusable(name: str, path: Path, error: OSError) -> LabError:
    return LabError(
        f"cannot use the lock {path}: {error.strerror or error}",
        where=name,
        cure="make room or mend its permissions, or point $XDG_STATE_HOME elsewhere",
    )
