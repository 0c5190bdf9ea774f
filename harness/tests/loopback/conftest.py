"""Fixtures of the loopback layer: a real sshd, a connection to it, a machine that it poses as.

Skipped, with the reason, where this machine has no sshd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.link.ssh import Ssh
from harness.tests.inner import Session
from harness.tests.loopback.posing import listed, posing
from harness.tests.loopback.sshd import Sshd, why_not

__all__ = ["box", "own_sshd", "session", "ssh", "sshd"]


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


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A machine of our own making, shared by all sessions."""
    server = posing(tmp_path_factory.mktemp("box"))
    yield server
    server.stop()


@pytest.fixture
def session(box: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on it, with reservations of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Session(listed(tmp_path / "targets.toml", box), tmp_path / "runs", "box")
