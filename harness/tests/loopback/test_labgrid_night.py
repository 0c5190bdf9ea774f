"""Two dispatchers on three targets of a real coordinator, while one part after the other dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.tests.inner import Session
from harness.tests.loopback.posing import posing
from harness.tests.sharedlab import VICTIMS, Lab, nobody_loses, opened, shared

# There is no lockdep here: a pass is blind, which is no proof (summary.status).
BLIND = ("blind", 3)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    box = posing(tmp_path / "box")
    service = {"address": "127.0.0.1", "username": "root", "port": box.port}
    entry = (
        f'driver = "amdgpu"\nkey = "{box.user_key}"\nlimits = {{ connect_s = 120, boot_s = 120 }}\n'
    )
    tags = {"host_key": box.fingerprint()}
    with opened(tmp_path, service, lambda name: entry, tags, 600.0) as made:
        yield made
    box.stop()


@pytest.mark.deep
def test_two_dispatchers_share_three_targets(lab: Lab) -> None:
    shared(lab, *BLIND)


@pytest.mark.deep
def test_no_result_is_lost_whoever_dies(lab: Lab) -> None:
    nobody_loses(lab, *BLIND)


@pytest.mark.deep
def test_a_place_that_went_to_others_makes_errors_not_failures(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    session = Session(lab.targets, tmp_path / "runs", "one")
    process = session.start(VICTIMS)
    lab.until(lambda: flag.exists() or process.poll() is not None, "a test waits")
    # It stands still while the coordinator is restarted and somebody else is quicker.
    os.killpg(process.pid, signal.SIGSTOP)
    lab.coordinators.kill()
    assert lab.exporter.wait() == 100
    lab.coordinators.start()
    lab.exporter.start()
    lab.until(lambda: lab.session.generation == 2, "it is there again")
    lab.session.reach(Deadline(lab.patience_s))
    lab.session.acquire("one")
    os.killpg(process.pid, signal.SIGCONT)
    flag.unlink()
    assert process.wait(lab.patience_s) == 1
    verdicts = session.verdicts()
    assert verdicts["test_a_first"].outcome == "blind"
    assert verdicts["test_b_waits"].outcome == "error"
    assert "taken by others while the coordinator restarted" in verdicts["test_b_waits"].reason
    assert "test_c_last" not in verdicts
    told = (session.runs / "output.txt").read_text()
    assert f"one: {lab.session.owner}" in told
    assert "the reservation is lost" in told
    assert "Traceback" not in told
    assert lab.session.places()["one"].acquired == lab.session.owner
