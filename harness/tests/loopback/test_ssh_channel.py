"""Byte channels over SSH: what the agent's frames travel on.

A ByteChannel must be safe from two threads, and `close` must end a blocked wait.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.channel import ByteChannel
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd

__all__: list[str] = []


def _read(channel: ByteChannel, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := channel.recv(65536)):
        data += chunk
    return data


def test_bytes_go_both_ways_unchanged(ssh: Ssh) -> None:
    channel: ByteChannel = ssh.channel(["cat"])
    assert "loop" in channel.peer
    data = bytes(range(256)) * 64
    channel.send(data)
    assert _read(channel, len(data)) == data
    channel.close()
    channel.close()
    assert channel.recv(1) == b""


def test_megabytes_both_ways_from_two_threads(ssh: Ssh) -> None:
    channel = ssh.channel(["cat"])
    data = os.urandom(8 << 20)
    sender = threading.Thread(target=channel.send, args=(data,))
    sender.start()
    assert _read(channel, len(data)) == data
    sender.join()
    channel.close()


def test_a_flood_on_stderr_does_not_stop_stdout(ssh: Ssh) -> None:
    channel = ssh.channel(["sh", "-c", "head -c 9000000 /dev/zero >&2; echo words >&2; echo done"])
    assert _read(channel, 5) == b"done\n"
    assert channel.recv(1) == b""
    tail = channel.stderr_tail()
    assert tail.endswith("words\n")
    assert len(tail) <= 8192
    channel.close()


def test_close_ends_a_blocked_recv(ssh: Ssh) -> None:
    channel = ssh.channel(["sleep", "300"])
    threading.Timer(0.3, channel.close).start()
    began = time.monotonic()
    assert channel.recv(1) == b""
    assert time.monotonic() - began < 3


def test_close_ends_a_blocked_send(ssh: Ssh) -> None:
    channel = ssh.channel(["sleep", "3"])
    threading.Timer(0.3, channel.close).start()
    with pytest.raises(LabError, match="sleep 3 is gone"):
        channel.send(bytes(64 << 20))


def test_a_command_that_ended_is_told_with_its_last_words(ssh: Ssh) -> None:
    channel = ssh.channel(["sh", "-c", "echo it broke >&2; exit 1"])
    assert channel.recv(1) == b""
    assert channel.stderr_tail() == "it broke\n"
    with pytest.raises(LabError, match="it broke"):
        channel.send(bytes(64 << 20))
    channel.close()


def test_a_missing_program_is_told_by_the_tail(ssh: Ssh) -> None:
    channel = ssh.channel(["no-such-thing"])
    assert channel.recv(1) == b""
    assert channel.stderr_tail() == "no-such-thing: no such program\n"
    channel.close()


def test_the_link_broken_under_a_channel(own_sshd: Sshd) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20)) as ssh:
        channel = ssh.channel(["cat"])
        channel.send(b"x")
        assert channel.recv(1) == b"x"
        own_sshd.kill_sessions()
        assert channel.recv(1) == b""
        with pytest.raises(LabError):
            channel.send(b"x")
        with pytest.raises(LabError, match="not connected"):
            ssh.channel(["cat"])
        channel.close()


def test_closing_the_connection_ends_its_channels(sshd: Sshd) -> None:
    ssh = Ssh.connect(sshd.endpoint(), Deadline(20))
    channel = ssh.channel(["cat"])
    threading.Timer(0.2, ssh.close).start()
    assert channel.recv(1) == b""
    ssh.close()
