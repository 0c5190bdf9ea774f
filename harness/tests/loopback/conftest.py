"""Fixtures of the loopback layer: a real sshd and a connection to it.

Skipped, with the reason, where this machine has no sshd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd, why_not

__all__ = ["own_sshd", "ssh", "sshd"]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server shared by all tests that leave it as it was."""
    if reason := why_not():
        pytest.skip(reason)
    server = Sshd(tmp_path_factory.mktemp("sshd")).start()
    yield server
    server.stop()


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server that a test may stop, restart and maim."""
    if reason := why_not():
        pytest.skip(reason)
    server = Sshd(tmp_path / "sshd").start()
    yield server
    server.stop()


@pytest.fixture
def ssh(sshd: Sshd) -> Iterator[Ssh]:
    """A connection to the shared server."""
    with Ssh.connect(sshd.endpoint(), Deadline(20)) as connection:
        yield connection
