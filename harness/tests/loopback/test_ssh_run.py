"""Commands over SSH: bytes exactly as given and as written, and every wait bounded.

Against a real sshd; what is killed here is killed for real.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError, UsageError
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd

__all__: list[str] = []

_ARGV = "import sys; sys.stdout.buffer.write(b'\\0'.join(a.encode('utf-8', 'surrogateescape') \
for a in sys.argv[1:]))"
_TORTURE = [
    "",
    " ",
    "'",
    '"',
    "''\"\"'",
    "$HOME",
    "$(touch /tmp/never)",
    "`id`",
    "a\nb\n",
    "\t\\n\\",
    "*",
    "~",
    "-n",
    "--",
    "!!",
    "&& false; | > <",
    "käse \N{SNOWMAN} \N{GRINNING FACE}",
    "\udcff\udc80",
    "%s%d",
    "a" * 20000,
    "#",
    "\r\n",
    "\x01\x7f",
]


@pytest.mark.parametrize("argument", _TORTURE, ids=lambda text: ascii(text)[:20])
def test_each_argument_arrives_exactly(ssh: Ssh, argument: str) -> None:
    argv = [sys.executable, "-c", _ARGV, argument, "end"]
    done = ssh.run(argv, Deadline(20), check=True)
    assert done.stdout == os.fsencode(argument) + b"\0end"


def test_all_arguments_at_once(ssh: Ssh) -> None:
    done = ssh.run([sys.executable, "-c", _ARGV, *_TORTURE], Deadline(20), check=True)
    assert done.stdout.split(b"\0") == [os.fsencode(text) for text in _TORTURE]


def test_what_no_exec_could_take_is_the_callers_fault(ssh: Ssh) -> None:
    for argv in ([], [""], "ls -l", ["echo", "\0"], ["echo", "a" * 140000]):
        with pytest.raises(UsageError):
            ssh.run(argv, Deadline(5))


def test_status_and_streams(ssh: Ssh) -> None:
    done = ssh.run(["sh", "-c", "echo out; echo err >&2; exit 42"], Deadline(20))
    assert (done.status, done.signal, done.stdout, done.stderr) == (42, None, b"out\n", b"err\n")
    assert not done.ok
    assert ssh.run(["true"], Deadline(20)).ok


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "USR1"])
def test_a_signal_is_told_by_name(ssh: Ssh, name: str) -> None:
    done = ssh.run(["sh", "-c", f"echo last; kill -{name} $$"], Deadline(20))
    assert (done.status, done.stdout) == (None, b"last\n")
    # RFC 4254 names no USR1 but OpenSSH sends it all the same, sometimes marked as its own.
    assert done.signal is not None
    assert done.signal.split("@")[0] == name
    assert done.ended() == f"killed by SIG{done.signal}"


def test_a_missing_program_is_told(ssh: Ssh) -> None:
    with pytest.raises(TargetError, match="no such program: no-such-thing") as caught:
        ssh.run(["no-such-thing", "-x"], Deadline(20))
    assert "loop" in caught.value.where
    # The program's own 127 is its own affair.
    assert ssh.run(["sh", "-c", "exit 127"], Deadline(20)).status == 127


def test_check_tells_the_last_words(ssh: Ssh) -> None:
    with pytest.raises(TargetError, match="status 3: oh no"):
        ssh.run(["sh", "-c", "echo oh no >&2; exit 3"], Deadline(20), check=True)


def test_stdin_reaches_the_command_whole(ssh: Ssh) -> None:
    data = os.urandom(5 << 20)
    done = ssh.run(["sha256sum"], Deadline(60), stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert ssh.run(["cat"], Deadline(60), stdin=data).stdout == data
    assert ssh.run(["cat"], Deadline(20)).stdout == b""


def test_a_command_that_does_not_read_its_stdin_is_no_error(ssh: Ssh) -> None:
    assert ssh.run(["true"], Deadline(30), stdin=bytes(8 << 20)).ok


def test_both_streams_at_once_by_the_megabyte(ssh: Ssh) -> None:
    # One after the other, then interleaved: either blocks if one stream is left alone.
    for script in (
        "head -c 6000000 /dev/zero >&2; head -c 6000000 /dev/zero",
        "head -c 6000000 /dev/zero; head -c 6000000 /dev/zero >&2",
        "head -c 6000000 /dev/zero & head -c 6000000 /dev/zero >&2; wait",
    ):
        done = ssh.run(["sh", "-c", script], Deadline(60), check=True)
        assert (len(done.stdout), len(done.stderr)) == (6000000, 6000000)
        assert (done.stdout_lost, done.stderr_lost) == (0, 0)


def test_output_beyond_the_limit_is_drained_and_counted(ssh: Ssh) -> None:
    script = "head -c 3000000 /dev/zero >&2; head -c 3000001 /dev/zero; exit 7"
    done = ssh.run(["sh", "-c", script], Deadline(60), limit=1000)
    assert done.status == 7
    assert (len(done.stdout), done.stdout_lost) == (1000, 2999001)
    assert len(done.stderr) == 1000
    assert len(done.stderr) + done.stderr_lost == 3000000


def _pids_of(mark: str) -> list[int]:
    """Processes with `mark` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _gone(mark: str) -> bool:
    until = Deadline(5)
    while _pids_of(mark):
        if not until.pause(0.05):
            return False
    return True


@pytest.mark.parametrize(
    "script",
    [
        "sleep 300",
        "sleep 300 & sleep 300; wait",
        "trap '' HUP TERM PIPE INT; while :; do echo noise; sleep 0.01; done",
        "exec >&- 2>&-; sleep 300",
    ],
)
def test_the_deadline_kills_the_command_there(ssh: Ssh, script: str, tmp_path: Path) -> None:
    mark = str(tmp_path)
    began = time.monotonic()
    with pytest.raises(TargetError, match=r"not done within 0.7 s; killed"):
        ssh.run(["sh", "-c", script, mark], Deadline(0.7))
    assert time.monotonic() - began < 6
    assert _gone(mark)
    assert ssh.run(["echo", "still here"], Deadline(20)).stdout == b"still here\n"


def test_a_deadline_already_past(ssh: Ssh) -> None:
    with pytest.raises(HarnessError):
        ssh.run(["true"], Deadline(0))
    assert ssh.run(["true"], Deadline(20)).ok


def test_fifty_channels_at_once(own_sshd: Sshd) -> None:
    own_sshd.stop()
    server = Sshd(own_sshd.folder / "wide", MaxSessions="60").start()
    try:
        with Ssh.connect(server.endpoint(), Deadline(20)) as ssh:
            channels = [ssh.channel(["cat"], deadline=Deadline(60)) for _ in range(50)]
            for number, channel in enumerate(channels):
                channel.send(b"%d\n" % number)
            assert [channel.recv(100) for channel in channels] == [b"%d\n" % n for n in range(50)]
            for channel in channels:
                channel.close()
    finally:
        server.stop()


def test_fifty_commands_at_once_on_a_server_that_takes_ten(ssh: Ssh) -> None:
    # OpenSSH's default is MaxSessions 10: what does not fit waits for its turn.
    with ThreadPoolExecutor(50) as pool:
        outputs = pool.map(
            lambda n: ssh.run(["sh", "-c", f"sleep 0.05; echo {n}"], Deadline(60)).stdout,
            range(50),
        )
        assert list(outputs) == [b"%d\n" % n for n in range(50)]


def test_a_server_that_stays_full_is_told(sshd: Sshd) -> None:
    with Ssh.connect(sshd.endpoint(), Deadline(20)) as ssh:
        hogs = [ssh.channel(["cat"]) for _ in range(10)]
        with pytest.raises(LabError, match="gave no channel within 1 s") as caught:
            ssh.run(["true"], Deadline(1))
        assert "loop" in caught.value.where
        hogs[0].close()
        assert ssh.run(["true"], Deadline(20)).ok


@pytest.mark.parametrize("doing", ["sleeping", "talking"])
def test_a_transport_killed_under_a_command(own_sshd: Sshd, doing: str) -> None:
    script = {"sleeping": "sleep 300", "talking": "while :; do echo noise; done"}[doing]
    with Ssh.connect(own_sshd.endpoint(), Deadline(20)) as ssh:
        killer = threading.Timer(0.5, own_sshd.kill_sessions)
        killer.start()
        began = time.monotonic()
        with pytest.raises(LabError, match="the connection broke") as caught:
            ssh.run(["sh", "-c", script], Deadline(60), limit=1000)
        assert time.monotonic() - began < 10
        assert "loop" in str(caught.value)
        killer.join()
        assert not ssh.alive()
        with pytest.raises(LabError, match="not connected"):
            ssh.run(["true"], Deadline(20))
        ssh.reconnect(Deadline(20))
        assert ssh.run(["echo", "back"], Deadline(20)).stdout == b"back\n"


def _fake_sudo(sshd: Sshd, folder: Path, script: str) -> Sshd:
    """A server on whose PATH `sudo` is `script`: whatever sudo this machine has stays out."""
    sudo = folder / "sudo"
    sudo.write_text(script)
    sudo.chmod(0o755)
    home = f"HOME={folder} PATH={folder}:{os.environ['PATH']}"
    return Sshd(sshd.folder / "sudo", SetEnv=home).start()


def test_root_goes_through_sudo_for_a_normal_user(own_sshd: Sshd, tmp_path: Path) -> None:
    # "-n -- program arguments", counted so that the probe is seen to be asked once.
    server = _fake_sudo(
        own_sshd, tmp_path, f'#!/bin/sh\necho "$1 $2" >> {tmp_path}/asked\nshift 2\nexec "$@"\n'
    )
    try:
        with Ssh.connect(server.endpoint(), Deadline(20)) as ssh:
            ssh.endpoint = replace(ssh.endpoint, user="lab")
            for argument in ("$(id) 'x'", "two"):
                done = ssh.run(["printf", "%s", argument], Deadline(20), root=True, check=True)
                assert done.stdout == argument.encode()
            asked = (tmp_path / "asked").read_text().splitlines()
            assert asked == ["-n --"] * 3
            with pytest.raises(TargetError, match="no such program: nope"):
                ssh.run(["nope"], Deadline(20), root=True)
            mark = str(tmp_path / "mark")
            with pytest.raises(TargetError, match="killed"):
                ssh.run(["sh", "-c", "sleep 300; true", mark], Deadline(0.7), root=True)
            assert _gone(mark)
    finally:
        server.stop()


def test_sudo_that_wants_a_password_is_explained(own_sshd: Sshd, tmp_path: Path) -> None:
    script = '#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n'
    server = _fake_sudo(own_sshd, tmp_path, script)
    try:
        with Ssh.connect(server.endpoint(), Deadline(20)) as ssh:
            ssh.endpoint = replace(ssh.endpoint, user="lab")
            for attempt in (
                lambda: ssh.run(["id"], Deadline(20), root=True),
                lambda: ssh.channel(["id"], root=True),
            ):
                with pytest.raises(TargetError, match="a password is required") as caught:
                    attempt()
                assert "NOPASSWD" in caught.value.cure
            assert ssh.run(["id", "-u"], Deadline(20)).ok
    finally:
        server.stop()
