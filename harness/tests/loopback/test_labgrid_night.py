"""Two dispatchers on three targets of a real coordinator, while one part after the other dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.tests.loopback.posing import posing
from harness.tests.sharedlab import Lab, nobody_loses, opened, shared

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
