"""Commands, byte channels and files on a target, over one SSH transport kept open.

Every wait is under a Deadline.  A broken link is a LabError and stays broken
until `reconnect`: a silent reconnect would hide a reboot.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import paramiko

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError
from harness.link import sftp
from harness.link.command import KILL, Command
from harness.link.dial import Endpoint, Transport, Unreachable, dial
from harness.link.streams import Kept, SshChannel, drain, feed, shut, start

__all__ = ["Completed", "Endpoint", "Ssh", "SshChannel", "Unreachable"]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# How long past its deadline a command may keep us, to be killed over there.
_KILL_S = 5.0
# First and longest wait for a server's first bytes while a machine boots: QEMU's
# user network accepts before the guest does, and such a connection may never speak.
_PATIENCE_S = (3.0, 15.0)


@dataclass(frozen=True)
class Completed:
    """How a command ended and what it wrote."""

    argv: tuple[str, ...]
    status: int | None
    """Exit status; None when a signal ended it."""
    signal: str | None
    """Its name without SIG ("KILL"), else None."""
    stdout: bytes
    stderr: bytes
    stdout_lost: int = 0
    """Bytes beyond the limit, read and dropped; 0 means that `stdout` is whole."""
    stderr_lost: int = 0

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.status == 0

    def ended(self) -> str:
        """How it ended, in words."""
        return f"status {self.status}" if self.signal is None else f"killed by SIG{self.signal}"


class Ssh:
    """A connection to one target.  All methods may be called from any thread."""

    def __init__(self, endpoint: Endpoint, *, boot_id_path: str = BOOT_ID) -> None:
        """Not yet connected; `connect` makes one that is."""
        self.endpoint = endpoint
        self.boot_id_path = boot_id_path
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._root_by_sudo: Transport | None = None
        self._freed = threading.Condition()

    @classmethod
    def connect(
        cls,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        wait: bool = False,
        boot_id_path: str = BOOT_ID,
        hopeless: Callable[[], str] | None = None,
    ) -> Ssh:
        """Connect; with `wait`, go on trying until the deadline while nobody answers, or until
        `hopeless` says why nobody will.

        Raises Unreachable (a LabError) when nobody answers, LabError at once when
        the host key is not the pinned one or the user's key is refused, UsageError
        when a key or known_hosts file cannot be used.
        """
        ssh = cls(endpoint, boot_id_path=boot_id_path)
        ssh.reconnect(deadline, wait=wait, hopeless=hopeless)
        return ssh

    def reconnect(
        self,
        deadline: Deadline,
        *,
        wait: bool = True,
        hopeless: Callable[[], str] | None = None,
    ) -> None:
        """A fresh transport in place of the old one.  Raises as `connect`."""
        self.close()
        if wait:
            self._adopt(self._dial(deadline, hopeless))
        else:
            self._adopt(dial(self.endpoint, deadline, hopeless=hopeless))

    def alive(self) -> bool:
        """Whether the transport is up, as far as this end can know without asking."""
        with self._lock:
            return self._transport is not None and self._transport.is_active()

    def close(self) -> None:
        """End the transport and all its channels.  Idempotent."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def __enter__(self) -> Ssh:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes = b"",
        limit: int = 16 << 20,
        root: bool = False,
        check: bool = False,
    ) -> Completed:
        """Run one command to its end (of both streams: a child left behind may hold them open).

        `limit`: bytes kept of each stream; what is beyond is drained and counted.
        `root`: through sudo when the user is not root.  `check`: a status other
        than 0 is a TargetError.

        Raises TargetError when the program does not exist there, sudo will not,
        or the command is not done in time (it is killed; this may take 5 s more);
        LabError when the link breaks.
        """
        command = Command(argv, sudo=root and self._sudo(deadline))
        out, err = Kept(limit), Kept(limit + 256)
        with self.session(deadline) as channel:
            channel.exec_command(command.line)
            helpers = [start(drain, channel.recv_stderr, err)]
            if stdin:
                helpers.append(start(feed, channel, stdin))
            else:
                channel.shutdown_write()
            drain(channel.recv, out)
            helpers[0].join()
            channel.status_event.wait(deadline.left())
            signal = _signal(channel)
            status = channel.exit_status if channel.exit_status >= 0 else None
            if status is None and signal is None:
                if deadline.expired():
                    raise self._overdue(command, deadline, bytes(err.data))
                raise self.broken(deadline, f"while {command} ran")
        if command.missing(err.data):
            raise self._missing(command.argv[0])
        stderr = command.without_marks(bytes(err.data))
        done = Completed(
            command.argv,
            None if signal else status,
            signal,
            bytes(out.data),
            stderr[:limit],
            out.lost,
            err.lost + max(0, len(stderr) - limit),
        )
        if check and not done.ok:
            raise TargetError(
                f"{command}: {done.ended()}: {_last_lines(done.stderr or done.stdout)}",
                where=self.endpoint.where,
                cure=f"try it there: `lab shell {self.endpoint.target}`",
            )
        return done

    def channel(
        self, argv: Sequence[str], *, root: bool = False, deadline: Deadline | None = None
    ) -> SshChannel:
        """Start a command and talk with it.  `deadline` (default 30 s) is for the start alone.

        Raises as `run`, but a program that does not exist is told by `stderr_tail`.
        """
        deadline = deadline or Deadline(30.0)
        command = Command(argv, sudo=root and self._sudo(deadline))
        with contextlib.ExitStack() as cleanup:
            channel = self._open(deadline)
            cleanup.callback(self._release, channel)
            with self._guarded(channel, deadline):
                channel.exec_command(command.line)
            cleanup.pop_all()
        return SshChannel(channel, command, self.endpoint.where, self._release)

    def put(self, data: bytes, path: str, mode: int, deadline: Deadline) -> bool:
        """Write `data` to `path` there: whole, verified and with `mode`, or not at all.

        False when the same content and mode was there already.  The directory is
        made.  Raises TargetError (disk full with the space left, permission),
        LabError when the link breaks.
        """
        return sftp.put(self, data, path, mode, deadline)

    def get(self, path: str, deadline: Deadline, limit: int = 64 << 20) -> bytes:
        """The file's content.  Raises TargetError when it is missing or over `limit` bytes."""
        return sftp.get(self, path, deadline, limit)

    def boot_id(self, deadline: Deadline) -> str:
        """What tells this boot from all others (Documentation/admin-guide/sysctl/kernel.rst)."""
        text = self.run(["cat", self.boot_id_path], deadline, check=True).stdout
        return text.decode("ascii", "replace").strip()

    def seen_from(self, deadline: Deadline) -> str:
        """This host's address as the target sees it (SSH_CONNECTION, ssh(1)): behind NAT, or
        from within a virtual machine, it is another one than we know.  Raises TargetError."""
        done = self.run(["printenv", "SSH_CONNECTION"], deadline, check=True)
        return done.stdout.decode("ascii", "replace").split()[0]

    def host_key(self) -> str:
        """The verified key of the machine at the other end: "ssh-ed25519 AAAA..."."""
        key = self._live().get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def wait_reboot(
        self, old_boot_id: str, deadline: Deadline, hopeless: Callable[[], str] | None = None
    ) -> str:
        """Reconnect until the boot id is another one, and return that.

        Raises Unreachable when it does not come back, at once where `hopeless` says why;
        TargetError when it was there all the time, LabError at once when it came back with
        another host key.
        """
        seen = ""
        while True:
            if not self.alive():
                self._adopt(self._dial(deadline, hopeless))
            try:
                # A machine cut off from power sends no FIN: the old transport just stalls.
                seen = self.boot_id(deadline.capped(8.0))
            except (LabError, TargetError):
                # That the time was up for us says nothing about the machine.
                seen = seen if deadline.expired() else ""
                self.close()
            if seen not in ("", old_boot_id):
                return seen
            if not deadline.pause(0.3):
                raise self._no_reboot(deadline, seen)

    # ---- for the files beside this one

    @contextlib.contextmanager
    def session(self, deadline: Deadline) -> Iterator[paramiko.Channel]:
        """A channel that dies at the deadline, so that no wait on it outlives that."""
        channel = self._open(deadline)
        try:
            with self._guarded(channel, deadline):
                yield channel
        finally:
            self._release(channel)

    def broken(self, deadline: Deadline, doing: str) -> LabError:
        """The error for a channel that ended too early."""
        where, target = self.endpoint.where, self.endpoint.target
        if deadline.expired():
            return LabError(
                f"no end within {deadline.seconds:g} s {doing}".rstrip(),
                where=where,
                cure="raise the limit in targets.toml if the target is merely slow",
            )
        return LabError(
            f"the connection broke {doing}".rstrip(),
            where=where,
            cure=f"see `lab console {target}` whether it lives; reconnecting is safe",
        )

    # ---- inside

    def _dial(self, deadline: Deadline, hopeless: Callable[[], str] | None = None) -> Transport:
        patience = _PATIENCE_S[0]
        while True:
            try:
                return dial(self.endpoint, deadline, patience_s=patience, hopeless=hopeless)
            except Unreachable as error:
                if hopeless is not None and (why := hopeless()):
                    raise Unreachable(
                        why, where=error.where, cure="see its console.log; boot another kernel"
                    ) from error
                if not deadline.pause(0.25) or deadline.expired():
                    raise Unreachable(
                        f"not reachable for {deadline.seconds:g} s; at last: {error.what}",
                        where=error.where,
                        cure=error.cure,
                    ) from error
                patience = min(patience * 1.5, _PATIENCE_S[1])

    def _adopt(self, transport: Transport) -> None:
        with self._lock:
            old, self._transport = self._transport, transport
        if old is not None:
            old.close()

    def _live(self) -> Transport:
        with self._lock:
            transport = self._transport
        if transport is None or not transport.is_active():
            raise LabError(
                "not connected (any more)",
                where=self.endpoint.where,
                cure="reconnect; if that fails, see its console",
            )
        return transport

    def _open(self, deadline: Deadline) -> paramiko.Channel:
        """A session channel; waits for one of ours to end when the server has no more."""
        while True:
            transport = self._live()
            try:
                return transport.open_session(timeout=max(0.01, deadline.left()))
            except (paramiko.SSHException, EOFError, OSError) as error:
                # paramiko keeps one exception for all threads: which one comes out here says
                # nothing, only whether the transport lives does.
                if not transport.is_active():
                    raise self.broken(deadline, "") from error
                if deadline.expired():
                    raise LabError(
                        f"its SSH server gave no channel within {deadline.seconds:g} s: {error}",
                        where=self.endpoint.where,
                        cure="raise MaxSessions in its sshd_config, or run fewer things at once",
                    ) from error
            with self._freed:
                self._freed.wait(min(0.25, deadline.left()))

    def _release(self, channel: paramiko.Channel) -> None:
        shut(channel)
        with self._freed:
            self._freed.notify()

    @contextlib.contextmanager
    def _guarded(self, channel: paramiko.Channel, deadline: Deadline) -> Iterator[None]:
        timer = threading.Timer(deadline.left(), shut, [channel])
        timer.daemon = True
        timer.start()
        try:
            yield
        except (paramiko.SSHException, EOFError) as error:
            raise self.broken(deadline, f"({error})" if str(error) else "") from error
        finally:
            timer.cancel()

    def _sudo(self, deadline: Deadline) -> bool:
        """Whether root takes sudo here.  Asks once a transport; raises TargetError if it won't."""
        with self._lock:
            transport = self._transport
        if self.endpoint.user == "root":
            return False
        if transport is not None and self._root_by_sudo is transport:
            return True
        user = self.endpoint.user
        asked = self.run(["sudo", "-n", "--", "true"], deadline)
        if not asked.ok:
            raise TargetError(
                f"sudo does not let {user} be root: {_last_lines(asked.stderr)}",
                where=self.endpoint.where,
                cure=f"as root there: echo '{user} ALL=(ALL) NOPASSWD: ALL' >"
                ' /etc/sudoers.d/tdrlab; or set user = "root" in targets.toml',
            )
        self._root_by_sudo = transport
        return True

    def _overdue(self, command: Command, deadline: Deadline, stderr: bytes) -> HarnessError:
        """Kill what is overdue.  Whether that works tells whose fault it was."""
        what = f"{command}: not done within {deadline.seconds:g} s"
        pids = command.pids(stderr)
        try:
            if pids:
                by_sudo = self._root_by_sudo is not None
                self.run([*KILL, *pids], Deadline(_KILL_S), root=by_sudo)
        except HarnessError:
            pids = []
        if not pids:
            return LabError(
                f"{what}, and it could not be killed",
                where=self.endpoint.where,
                cure=f"see `lab console {self.endpoint.target}` whether it lives",
            )
        return TargetError(
            f"{what}; killed",
            where=self.endpoint.where,
            cure="is the target overloaded or hung? raise limits.command_s if merely slow",
        )

    def _no_reboot(self, deadline: Deadline, boot_id: str) -> HarnessError:
        target = self.endpoint.target
        if boot_id:
            return TargetError(
                f"did not reboot within {deadline.seconds:g} s: still boot {boot_id}",
                where=self.endpoint.where,
                cure=f"cut its power: `lab power {target} cycle`",
            )
        return Unreachable(
            f"did not come back from its reboot within {deadline.seconds:g} s",
            where=self.endpoint.where,
            cure=f"see `lab console {target}`; raise limits.boot_s if it is merely slow",
        )

    def _missing(self, program: str) -> TargetError:
        return TargetError(
            f"no such program: {program}",
            where=self.endpoint.where,
            cure=f"install it there, or see that it is on PATH (`command -v {program}`)",
        )


def _signal(channel: paramiko.Channel) -> str | None:
    transport = channel.get_transport()
    signals = transport.signals if isinstance(transport, Transport) else {}
    return signals.pop(channel.get_id(), None)


def _last_lines(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return "; ".join(lines[-3:]) or "(it said nothing)"
