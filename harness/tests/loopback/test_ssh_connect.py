"""Who may be talked to, and what is said when nobody can be.

Each bad day has its own error, naming the target and the cure.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.link.ssh import Ssh, Unreachable
from harness.tests.loopback.sshd import Sshd, keygen

__all__: list[str] = []


def _hello(ssh: Ssh) -> bytes:
    return ssh.run(["echo", "hello"], Deadline(20)).stdout


@pytest.mark.parametrize("pin", ["line", "print", "known_hosts"])
def test_a_pinned_host_is_trusted(sshd: Sshd, tmp_path: Path, pin: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"# lab\n\n[127.0.0.1]:{sshd.port} {sshd.public()}\n")
    endpoint = {
        "line": sshd.endpoint(host_key=sshd.public()),
        "print": sshd.endpoint(host_key=sshd.fingerprint()),
        "known_hosts": sshd.endpoint(host_key=None, known_hosts=known),
    }[pin]
    with Ssh.connect(endpoint, Deadline(20)) as ssh:
        assert ssh.alive()
        assert _hello(ssh) == b"hello\n"
    assert not ssh.alive()


def test_a_hashed_known_hosts_entry_is_found(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"other {sshd.public()}\n[127.0.0.1]:{sshd.port} {sshd.public()}\n")
    argv = ["ssh-keygen", "-H", "-f", str(known)]
    subprocess.run(argv, check=True, capture_output=True)
    assert "|1|" in known.read_text()
    endpoint = sshd.endpoint(host_key=None, known_hosts=known)
    with Ssh.connect(endpoint, Deadline(20)) as ssh:
        assert _hello(ssh) == b"hello\n"


def test_any_of_the_hosts_keys_may_be_pinned_by_fingerprint(own_sshd: Sshd) -> None:
    rsa = keygen(own_sshd.folder / "rsa", "rsa", "-b", "2048")
    ecdsa = keygen(own_sshd.folder / "ecdsa", "ecdsa")
    own_sshd.stop()
    own_sshd.start(own_sshd.host_key, rsa, ecdsa)
    for key in (own_sshd.host_key, rsa, ecdsa):
        endpoint = own_sshd.endpoint(host_key=own_sshd.fingerprint(key))
        with Ssh.connect(endpoint, Deadline(20)) as ssh:
            assert _hello(ssh) == b"hello\n"


def test_an_unknown_host_is_refused_with_the_line_to_add(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"elsewhere {sshd.public()}\n")
    with pytest.raises(UsageError, match="unknown host") as caught:
        Ssh.connect(sshd.endpoint(host_key=None, known_hosts=known), Deadline(20))
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {known}" in caught.value.cure


def test_a_revoked_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    host = f"[127.0.0.1]:{sshd.port}"
    known.write_text(f"{host} {sshd.public()}\n@revoked {host} {sshd.public()}\n")
    with pytest.raises(LabError, match="revoked"):
        Ssh.connect(sshd.endpoint(host_key=None, known_hosts=known), Deadline(20))


@pytest.mark.parametrize("by", ["line", "print"])
def test_a_changed_host_key_fails_at_once_and_recovers(own_sshd: Sshd, by: str) -> None:
    pin = own_sshd.public() if by == "line" else own_sshd.fingerprint()
    endpoint = own_sshd.endpoint(host_key=pin)
    other = keygen(own_sshd.folder / "other")
    own_sshd.stop()
    own_sshd.start(other)
    began = time.monotonic()
    with pytest.raises(LabError, match="host key mismatch") as caught:
        Ssh.connect(endpoint, Deadline(60), wait=True)
    assert time.monotonic() - began < 20
    text = str(caught.value)
    for told in (own_sshd.fingerprint(), own_sshd.fingerprint(other), "loop", "ssh-keygen -lf"):
        assert told in text
    assert not isinstance(caught.value, Unreachable)
    own_sshd.stop()
    own_sshd.start()
    with Ssh.connect(endpoint, Deadline(20)) as ssh:
        assert _hello(ssh) == b"hello\n"


def test_a_host_without_a_key_of_the_pinned_type_is_refused(own_sshd: Sshd) -> None:
    endpoint = own_sshd.endpoint()
    own_sshd.stop()
    own_sshd.start(keygen(own_sshd.folder / "rsa", "rsa", "-b", "2048"))
    with pytest.raises(LabError, match="no key of type ssh-ed25519"):
        Ssh.connect(endpoint, Deadline(20))


def test_a_wrong_user_key_fails_at_once(sshd: Sshd, tmp_path: Path) -> None:
    stranger = keygen(tmp_path / "stranger")
    began = time.monotonic()
    with pytest.raises(LabError, match="is refused with") as caught:
        Ssh.connect(sshd.endpoint(key=stranger), Deadline(60), wait=True)
    assert time.monotonic() - began < 20
    assert str(stranger) in caught.value.what
    assert "ssh-copy-id" in caught.value.cure


def test_keys_that_cannot_be_used_are_the_callers_fault(sshd: Sshd, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)]
    subprocess.run(argv, check=True)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(os.urandom(64))
    missing = tmp_path / "missing"
    public = locked.with_suffix(".pub")
    for key, said in (
        (locked, "passphrase"),
        (garbage, "not a private key"),
        (public, "not a private key"),
        (missing, "No such file"),
    ):
        with pytest.raises(UsageError, match=said):
            Ssh.connect(sshd.endpoint(key=key), Deadline(20))


def test_nonsense_pins_are_the_callers_fault(sshd: Sshd) -> None:
    for pin in ("", "SHA256:short", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "MD5:00:11"):
        with pytest.raises(UsageError, match="neither a fingerprint nor a public key"):
            Ssh.connect(sshd.endpoint(host_key=pin), Deadline(20))


def test_the_default_keys_are_used_when_none_is_configured(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no key to log in with"):
        Ssh.connect(sshd.endpoint(key=None), Deadline(20))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(sshd.user_key.read_bytes())
    (tmp_path / ".ssh" / "id_rsa").write_bytes(b"not a key")
    with Ssh.connect(sshd.endpoint(key=None), Deadline(20)) as ssh:
        assert _hello(ssh) == b"hello\n"


def test_the_ssh_agents_keys_are_used_when_none_is_configured(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    try:
        until = Deadline(5)
        while not sock.exists() and until.pause(0.02):
            pass
        monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
        monkeypatch.setenv("HOME", str(tmp_path))
        subprocess.run(["ssh-add", "-q", str(sshd.user_key)], check=True)
        with Ssh.connect(sshd.endpoint(key=None), Deadline(20)) as ssh:
            assert _hello(ssh) == b"hello\n"
    finally:
        agent.terminate()
        agent.wait()


@pytest.fixture
def refusing() -> Iterator[int]:
    """A port that refuses connections for as long as the test lasts: bound, so that nobody else
    gets it, but not listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def test_refused_is_told_at_once_without_wait(sshd: Sshd, refusing: int) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="connection refused") as caught:
        Ssh.connect(sshd.endpoint(port=refusing), Deadline(20))
    assert time.monotonic() - began < 5
    assert "systemctl start ssh" in caught.value.cure


def test_a_name_that_does_not_resolve(sshd: Sshd) -> None:
    with pytest.raises(Unreachable, match="cannot resolve"):
        Ssh.connect(sshd.endpoint(host="nothing.invalid"), Deadline(30))


def test_waiting_ends_at_the_deadline_and_says_what_was_last(sshd: Sshd, refusing: int) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"not reachable for 1 s; at last: connection refused"):
        Ssh.connect(sshd.endpoint(port=refusing), Deadline(1), wait=True)
    assert 0.7 < time.monotonic() - began < 3


def test_a_server_that_starts_later_is_waited_for(own_sshd: Sshd) -> None:
    own_sshd.stop()
    later = threading.Timer(1.0, own_sshd.start)
    later.start()
    with Ssh.connect(own_sshd.endpoint(), Deadline(30), wait=True) as ssh:
        assert _hello(ssh) == b"hello\n"
    later.join()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that accepts and never says a word, as QEMU's user network does before boot."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_server_that_says_nothing_is_given_up_at_the_deadline(sshd: Sshd, mute: int) -> None:
    for wait in (False, True):
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"does not speak SSH|says nothing"):
            Ssh.connect(sshd.endpoint(port=mute), Deadline(1), wait=wait)
        assert time.monotonic() - began < 4


def test_one_that_says_nothing_is_not_waited_for_once_it_is_known_to_be_dead(
    sshd: Sshd, mute: int
) -> None:
    told = iter(["", "", "the kernel panicked"])
    with pytest.raises(Unreachable, match="the kernel panicked"):
        Ssh.connect(sshd.endpoint(port=mute), Deadline(3600), hopeless=lambda: next(told))


def test_another_service_on_the_port(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"220 mail.example ESMTP\r\n" * 200)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = sshd.endpoint(port=server.getsockname()[1])
        with pytest.raises(Unreachable, match="does not speak SSH"):
            Ssh.connect(endpoint, Deadline(10))
        thread.join()


def test_nothing_of_all_this_reaches_stderr(own_sshd: Sshd) -> None:
    # In its own process: pytest's log capture would hide what a plain program prints.
    script = """
import sys
from pathlib import Path
from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.link.ssh import Endpoint, Ssh
port, key, pin = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
endpoint = Endpoint("loop", "127.0.0.1", port, sys.argv[4], key, pin)
ssh = Ssh.connect(endpoint, Deadline(20))
print("up", flush=True)
sys.stdin.readline()
for attempt in range(2):
    try:
        ssh.run(["true"], Deadline(20))
    except HarnessError as error:
        print(type(error).__name__, flush=True)
"""
    endpoint = own_sshd.endpoint()
    argv = [str(endpoint.port), str(endpoint.key), own_sshd.public(), endpoint.user]
    with subprocess.Popen(
        [sys.executable, "-c", script, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        own_sshd.kill_sessions()
        time.sleep(0.3)
        out, err = process.communicate("go\n", timeout=60)
    assert out == "LabError\nLabError\n"
    assert err == ""
