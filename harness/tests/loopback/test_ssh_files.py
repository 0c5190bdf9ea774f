"""Files over SSH: whole and verified, or not there at all.

The full disk is a real one where this machine lets us mount a small tmpfs.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError, LabError, TargetError
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd

__all__: list[str] = []


def test_five_megabytes_there_and_back(ssh: Ssh, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    path = tmp_path / "deep" / "er" / "it's a 'file'\n"
    assert ssh.put(data, str(path), 0o751, Deadline(60))
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7777 == 0o751
    assert os.listdir(path.parent) == [path.name]
    assert ssh.get(str(path), Deadline(60)) == data


def test_what_is_there_already_is_not_sent_again(ssh: Ssh, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert ssh.put(b"content", str(path), 0o644, Deadline(20))
    before = path.stat().st_ino
    assert not ssh.put(b"content", str(path), 0o644, Deadline(20))
    assert path.stat().st_ino == before
    # Other content of the same length, and another mode, are sent.
    assert ssh.put(b"CONTENT", str(path), 0o644, Deadline(20))
    assert ssh.put(b"CONTENT", str(path), 0o600, Deadline(20))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"CONTENT", 0o600)


def test_an_empty_file(ssh: Ssh, tmp_path: Path) -> None:
    assert ssh.put(b"", str(tmp_path / "empty"), 0o600, Deadline(20))
    assert ssh.get(str(tmp_path / "empty"), Deadline(20)) == b""


def test_files_that_say_they_are_empty_are_read_all_the_same(ssh: Ssh) -> None:
    assert ssh.get("/proc/version", Deadline(20)).startswith(b"Linux version")


def test_reading_what_cannot_be_read(ssh: Ssh, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot read") as caught:
        ssh.get(str(tmp_path / "missing"), Deadline(20))
    assert "loop" in caught.value.where
    with pytest.raises(TargetError, match="larger than 1000 bytes"):
        ssh.get("/dev/zero", Deadline(20), limit=1000)


def test_writing_where_no_one_can(ssh: Ssh, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TargetError):
        ssh.put(b"data", str(tmp_path / "file" / "below"), 0o600, Deadline(20))
    with pytest.raises(TargetError, match="cannot write"):
        ssh.put(b"data", "/proc/nothing", 0o600, Deadline(20))
    (tmp_path / "folder").mkdir()
    with pytest.raises(TargetError, match="cannot write"):
        ssh.put(b"data", str(tmp_path / "folder"), 0o600, Deadline(20))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("before", [None, b"old content"])
def test_an_interrupted_put_changes_nothing(
    own_sshd: Sshd, tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "out" / "file"
    path.parent.mkdir()
    if before is not None:
        path.write_bytes(before)
    data = os.urandom(48 << 20)

    def cut() -> None:
        """Kill the connection once the first megabyte is there."""
        until = Deadline(30)
        while until.pause(0.002):
            if any(part.stat().st_size > 1 << 20 for part in path.parent.glob(".file.*.part")):
                own_sshd.kill_sessions()
                return

    with Ssh.connect(own_sshd.endpoint(), Deadline(20)) as ssh:
        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(LabError, match="the connection broke"):
            ssh.put(data, str(path), 0o644, Deadline(60))
        cutter.join()
        assert (path.read_bytes() if path.exists() else None) == before
        ssh.reconnect(Deadline(20))
        assert ssh.put(data, str(path), 0o644, Deadline(60))
        assert path.read_bytes() == data


def test_a_put_that_does_not_make_its_deadline(ssh: Ssh, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(HarnessError):
        ssh.put(bytes(256 << 20), str(path), 0o644, Deadline(0.3))
    assert not path.exists()
    assert ssh.run(["true"], Deadline(20)).ok


def test_two_puts_of_one_file_at_once_leave_one_of_them_whole(ssh: Ssh, tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * (1 << 20) for number in range(4)]
    threads = [
        threading.Thread(target=ssh.put, args=(content, str(path), 0o644, Deadline(60)))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.splitlines()[0]}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_with_the_space_left(ssh: Ssh, small_disk: Path) -> None:
    (small_disk / "hog").write_bytes(bytes(100 << 10))
    with pytest.raises(TargetError, match=r"disk full: .* needs 1048576 bytes, \d+ are free") as at:
        ssh.put(bytes(1 << 20), str(small_disk / "file"), 0o644, Deadline(30))
    assert f"du -xah {small_disk}" in at.value.cure
    assert os.listdir(small_disk) == ["hog"]
    assert ssh.put(bytes(50 << 10), str(small_disk / "file"), 0o644, Deadline(30))


def test_a_server_without_sftp_is_told(own_sshd: Sshd, tmp_path: Path) -> None:
    server = Sshd(own_sshd.folder / "bare", Subsystem="other /bin/false").start()
    try:
        with Ssh.connect(server.endpoint(), Deadline(20)) as ssh:
            with pytest.raises(TargetError, match="no SFTP there"):
                ssh.put(b"data", str(tmp_path / "file"), 0o644, Deadline(20))
            assert ssh.run(["true"], Deadline(20)).ok
    finally:
        server.stop()
