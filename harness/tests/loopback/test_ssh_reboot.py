"""A reboot is known by its boot id, never by the connection alone.

The machine under test here cannot be rebooted: its boot id is a file of ours,
and its sshd is stopped and started as a reboot would.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.link.ssh import Ssh, Unreachable
from harness.tests.loopback.sshd import Sshd, keygen

__all__: list[str] = []


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    """The boot id as the machine shows it."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    return path


def test_the_kernels_own_by_default(ssh: Ssh) -> None:
    mine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert ssh.boot_id(Deadline(20)) == mine


def test_a_reboot_is_waited_for(own_sshd: Sshd, boot_id: Path) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20), boot_id_path=str(boot_id)) as ssh:
        assert ssh.boot_id(Deadline(20)) == "first"

        def reboot() -> None:
            time.sleep(0.5)
            own_sshd.stop()
            boot_id.write_text("second\n")
            time.sleep(1)
            own_sshd.start()

        thread = threading.Thread(target=reboot)
        thread.start()
        assert ssh.wait_reboot("first", Deadline(30)) == "second"
        thread.join()
        assert ssh.run(["echo", "up"], Deadline(20)).stdout == b"up\n"


def test_a_connection_that_broke_is_no_reboot(own_sshd: Sshd, boot_id: Path) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20), boot_id_path=str(boot_id)) as ssh:
        own_sshd.kill_sessions()
        threading.Timer(2.0, boot_id.write_text, ["second\n"]).start()
        began = time.monotonic()
        assert ssh.wait_reboot("first", Deadline(30)) == "second"
        assert time.monotonic() - began > 1.5


def test_no_reboot_is_told_as_such(own_sshd: Sshd, boot_id: Path) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20), boot_id_path=str(boot_id)) as ssh:
        with pytest.raises(TargetError, match="did not reboot within 1 s: still boot first") as at:
            ssh.wait_reboot("first", Deadline(1))
        assert "lab power loop" in at.value.cure


def test_a_machine_that_stays_away(own_sshd: Sshd, boot_id: Path) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20), boot_id_path=str(boot_id)) as ssh:
        own_sshd.stop()
        with pytest.raises(Unreachable):
            ssh.wait_reboot("first", Deadline(1.5))


def test_back_with_another_host_key_fails_at_once(own_sshd: Sshd, boot_id: Path) -> None:
    with Ssh.connect(own_sshd.endpoint(), Deadline(20), boot_id_path=str(boot_id)) as ssh:
        own_sshd.stop()
        own_sshd.start(keygen(own_sshd.folder / "other"))
        began = time.monotonic()
        with pytest.raises(LabError, match="host key mismatch"):
            ssh.wait_reboot("first", Deadline(60))
        assert time.monotonic() - began < 20
