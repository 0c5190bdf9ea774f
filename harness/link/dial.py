"""From an address to an authenticated SSH transport, or the reason why not.

Every way this can fail has its own message and cure.  `Unreachable` marks those
that waiting may mend (a machine that is booting); a refused key or a changed
host key is never one of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST
from paramiko.ssh_exception import BadAuthenticationType, IncompatiblePeer

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link.hostkey import ALGORITHMS, Trust, fingerprint

__all__ = ["Endpoint", "Stranger", "Transport", "Unreachable", "dial"]

_LOGGER = f"{__name__}.transport"
# Seconds between keepalives, and for how long sent data may stay unacknowledged
# before the kernel gives the connection up: a dead machine sends no FIN.
_KEEPALIVE_S = 5
# Between two looks at whether it makes sense to wait on.
_LOOK_S = 0.1
_UNACKED_MS = 20_000
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
# Authenticated ciphers first: one pass over the data, and OpenSSL does it with AES-NI.
_FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class Unreachable(LabError):
    """Nobody (yet) answers there as an SSH server; a booting machine may do so later."""


class Stranger(LabError):
    """Who answers there has another host key: not the target, as far as anybody can tell."""


@dataclass(frozen=True)
class Endpoint:
    """Where a target's sshd is and how to know each other."""

    target: str
    """The target's name, for messages."""
    host: str
    port: int = 22
    user: str = "root"
    key: Path | None = None
    """Private key: the only one offered.  None: ssh-agent's keys, then ~/.ssh/id_*."""
    host_key: str | None = None
    """ "SHA256:..." or "ssh-ed25519 AAAA...".  Wins over known_hosts."""
    known_hosts: Path | None = None
    """None and no host_key: ~/.ssh/known_hosts."""

    @classmethod
    def of(cls, target: Target) -> Endpoint:
        """The endpoint of a configured target with an address.  Raises UsageError without one."""
        if target.address is None:
            raise UsageError(
                "has no address", where=target.name, cure="give its virtual machine's endpoint"
            )
        return cls(
            target=target.name,
            host=target.address,
            port=target.port,
            user=target.user,
            key=Path(target.key).expanduser() if target.key else None,
            host_key=target.host_key,
            known_hosts=Path(target.known_hosts).expanduser() if target.known_hosts else None,
        )

    @property
    def where(self) -> str:
        """For messages: name and address."""
        return f"{self.target} ({self.user}@{self.host}:{self.port})"

    def trust(self) -> Trust:
        """The host keys accepted there.  Raises UsageError when none is pinned."""
        if self.host_key is not None:
            return Trust.of_pin(self.host_key, self.target)
        path = self.known_hosts or Path.home() / ".ssh" / "known_hosts"
        return Trust.of_known_hosts(path, self.host, self.port, self.target)


class Transport(paramiko.Transport):
    """paramiko's, which also keeps the signals that commands die of."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.signals: dict[int, str] = {}
        """Signal name without SIG, by channel id (RFC 4254, 6.10)."""

    def _heed(channel: paramiko.Channel, message: paramiko.Message) -> None:  # type: ignore[misc]
        kind, _ = message.get_text(), message.get_boolean()
        if kind == "exit-signal" and isinstance(channel.transport, Transport):
            channel.transport.signals[channel.get_id()] = message.get_text()
            return
        message.rewind()
        message.get_int()  # the channel's number, which the caller had read
        channel._handle_request(message)  # type: ignore[attr-defined]

    # paramiko knows exit-status only; this table is how it finds a handler.
    _channel_handler_table = {  # noqa: RUF012
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_REQUEST: _heed,
    }


class _Demoted(logging.Filter):
    """paramiko logs an ERROR and a traceback when a machine dies; here that is a day's work."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return True


def dial(
    endpoint: Endpoint,
    deadline: Deadline,
    *,
    patience_s: float | None = None,
    hopeless: Callable[[], str] | None = None,
) -> Transport:
    """Connect, check the host key, authenticate; all of it once.

    `patience_s` bounds the wait for the first bytes (TCP, then the server's
    banner), for callers that will try again; `hopeless` says, while it waits, why
    there will be none, or "".  Raises Unreachable when nobody answers, LabError for
    a host key or user key that is refused, UsageError for keys that cannot be read.
    """
    trust = endpoint.trust()
    keys = _UserKeys(endpoint)
    patience = deadline if patience_s is None else deadline.capped(patience_s)
    shown: dict[str, str] = {}
    while True:
        transport = _Handshake(endpoint, patience, hopeless).start(trust, shown, deadline)
        if transport is None:
            raise _changed(endpoint, trust, shown)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(transport.close)
            key = transport.get_remote_server_key()
            if trust.accepts(fingerprint(key.asbytes())):
                keys.authenticate(transport, deadline)
                transport.set_keepalive(_KEEPALIVE_S)
                cleanup.pop_all()
                return transport
        # A bare fingerprint does not say of which of the host's keys it is: ask for the rest.
        shown[key.get_name()] = fingerprint(key.asbytes())
        if trust.types is not None:
            raise _changed(endpoint, trust, shown)


class _Handshake:
    """TCP and the key exchange."""

    def __init__(
        self, endpoint: Endpoint, patience: Deadline, hopeless: Callable[[], str] | None
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._hopeless = hopeless or (lambda: "")

    def start(
        self, trust: Trust, not_types: dict[str, str], deadline: Deadline
    ) -> Transport | None:
        """A transport with its keys exchanged; None when the host has no key of the types asked."""
        sock = self._connect()
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(sock.close)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED_MS)
            transport = Transport(sock)
            cleanup.callback(transport.close)
            transport.set_log_channel(_quiet_log())
            transport.banner_timeout = max(0.1, self.patience.left())
            transport.handshake_timeout = max(0.1, deadline.left())
            options = transport.get_security_options()
            types = (trust.types or set(ALGORITHMS)) - set(not_types)
            if not types:
                return None
            options.key_types = [
                name for kind in ALGORITHMS if kind in types for name in ALGORITHMS[kind]
            ]
            rest = [name for name in options.ciphers if name not in _FAST_CIPHERS]
            options.ciphers = [*_FAST_CIPHERS, *(name for name in rest if "cbc" not in name)]
            try:
                self._negotiate(transport, deadline)
            except IncompatiblePeer as error:
                if "host key" in str(error):
                    return None
                raise self._mute(f"no common ground with its SSH server: {error}") from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._mute(f"accepts TCP but does not speak SSH: {error}") from error
            if not transport.initial_kex_done:
                how = "stalls in the key exchange" if transport.remote_version else "says nothing"
                raise self._mute(f"accepts TCP but {how} for {deadline.seconds:g} s")
            cleanup.pop_all()
            return transport

    def _negotiate(self, transport: Transport, deadline: Deadline) -> None:
        """Until the keys are exchanged or the time is up.  Raises as paramiko's start_client, and
        Unreachable where it became hopeless: TCP is accepted for a machine that has died."""
        over = threading.Event()
        transport.start_client(event=over)
        while not over.wait(min(_LOOK_S, max(0.01, deadline.left()))):
            if why := self._hopeless():
                raise Unreachable(why, where=self.endpoint.where, cure="see its console.log")
            if deadline.expired():
                return
        if not transport.is_active():
            raise transport.get_exception() or paramiko.SSHException("the negotiation failed")

    def _connect(self) -> socket.socket:
        endpoint = self.endpoint
        try:
            return socket.create_connection(
                (endpoint.host, endpoint.port), timeout=max(0.1, self.patience.left())
            )
        except socket.gaierror as error:
            raise Unreachable(
                f"cannot resolve {endpoint.host!r}: {error.strerror}",
                where=endpoint.where,
                cure="mend address in targets.toml, or this host's DNS; an IP address works too",
            ) from error
        except ConnectionRefusedError as error:
            raise Unreachable(
                f"connection refused: nothing listens on port {endpoint.port}",
                where=endpoint.where,
                cure="start sshd there (systemctl start ssh), or mend port in targets.toml",
            ) from error
        except TimeoutError as error:
            raise Unreachable(
                f"no answer within {self.patience.seconds:g} s",
                where=endpoint.where,
                cure=f"is it on, and cabled? `lab power {endpoint.target} on`, `lab console"
                f" {endpoint.target}`",
            ) from error
        except OSError as error:
            raise Unreachable(
                f"cannot connect: {error.strerror or error}",
                where=endpoint.where,
                cure="check the route to it (ip route get ADDRESS) and its power",
            ) from error

    def _mute(self, what: str) -> Unreachable:
        return Unreachable(
            what,
            where=self.endpoint.where,
            cure="is it still booting, or is another service on that port? try `ssh -v -p"
            f" {self.endpoint.port} {self.endpoint.host}`; its console may say more",
        )


class _UserKeys:
    """The keys offered, in order."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.keys: list[tuple[str, paramiko.PKey]] = []
        if endpoint.key is not None:
            self.keys.append((str(endpoint.key), _private(endpoint, endpoint.key)))
            return
        if os.environ.get("SSH_AUTH_SOCK"):
            with contextlib.suppress(paramiko.SSHException, OSError):
                self.keys += [("ssh-agent", key) for key in paramiko.Agent().get_keys()]
        for name in _DEFAULT_KEYS:
            path = Path.home() / ".ssh" / name
            if path.exists():
                # One that needs a passphrase is the agent's affair.
                with contextlib.suppress(UsageError):
                    self.keys.append((str(path), _private(endpoint, path)))
        if not self.keys:
            raise UsageError(
                "no key to log in with: none configured, none in ssh-agent or ~/.ssh",
                where=endpoint.where,
                cure='add key = "FILE" to the target',
            )

    def authenticate(self, transport: Transport, deadline: Deadline) -> None:
        """Offer each key until one is taken.  Raises LabError, or Unreachable when it hangs up."""
        endpoint = self.endpoint
        refused: list[str] = []
        for name, key in self.keys:
            transport.auth_timeout = max(0.1, deadline.left())
            try:
                more = transport.auth_publickey(endpoint.user, key)
                if not more:
                    return
                raise LabError(
                    f"the key is taken but {' and '.join(more)} is asked for as well",
                    where=endpoint.where,
                    cure="set AuthenticationMethods publickey for this user in its sshd_config",
                )
            except BadAuthenticationType as error:
                raise LabError(
                    "public keys are not accepted there, only "
                    + (", ".join(error.allowed_types) or "nothing"),
                    where=endpoint.where,
                    cure="set PubkeyAuthentication yes (and PermitRootLogin prohibit-password for"
                    " root) in its sshd_config",
                ) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                if (not transport.is_active() and not refused) or deadline.expired():
                    raise self._hung_up(transport, deadline, error) from error
                refused.append(f"{name} ({fingerprint(key.asbytes())})")
        raise LabError(
            f"user {endpoint.user!r} is refused with {', '.join(refused)}",
            where=endpoint.where,
            cure=f"add the public key there: ssh-copy-id -i KEY -p {endpoint.port}"
            f" {endpoint.user}@{endpoint.host}; or mend key or user in targets.toml",
        )

    def _hung_up(self, transport: Transport, deadline: Deadline, error: Exception) -> Unreachable:
        # pam_nologin does this to all but root while a machine boots or goes down.
        banner = (transport.get_banner() or b"").decode(errors="replace").strip()
        why = banner or str(error)
        late = f" within {deadline.seconds:g} s" if deadline.expired() else ""
        return Unreachable(
            f"hung up or stalled while logging in{late}: {why}",
            where=self.endpoint.where,
            cure="if it is booting, wait; else see its own `journalctl -u ssh`",
        )


def _private(endpoint: Endpoint, path: Path) -> paramiko.PKey:
    """The private key at `path`.  Raises UsageError when it cannot be used."""
    try:
        return paramiko.PKey.from_path(path)
    except OSError as error:
        what, cure = f"cannot read key {path}: {error.strerror}", "mend key in targets.toml"
    except (paramiko.PasswordRequiredException, TypeError):
        what = f"key {path} needs a passphrase"
        cure = "ssh-add it and leave key out of targets.toml, or make one without for the lab"
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError) as error:
        what = f"{path} is not a private key that can be used: {error}"
        cure = "give the private half; make one with ssh-keygen -t ed25519 -N '' -f FILE"
    raise UsageError(what, where=endpoint.target, cure=cure)


def _changed(endpoint: Endpoint, trust: Trust, shown: dict[str, str]) -> Stranger:
    came = ", ".join(f"{kind} {print_}" for kind, print_ in shown.items()) or (
        f"no key of type {' or '.join(sorted(trust.types or ALGORITHMS))}"
    )
    revoked = " (revoked)" if trust.revoked & set(shown.values()) else ""
    return Stranger(
        f"host key mismatch: expected {' or '.join(sorted(trust.accepted))}"
        f" (from {trust.source}); {endpoint.host}:{endpoint.port} shows {came}{revoked}."
        " Reinstalled, or someone else answers at its address",
        where=endpoint.where,
        cure="on its own screen or console run `ssh-keygen -lf"
        " /etc/ssh/ssh_host_ed25519_key.pub`; only if that prints what it shows here, change"
        f" {trust.source}",
    )


def _quiet_log() -> str:
    """The name of paramiko's logger, made to never reach stderr by itself."""
    for name in (_LOGGER, f"{_LOGGER}.sftp"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
            logger.addFilter(_Demoted())
    return _LOGGER
