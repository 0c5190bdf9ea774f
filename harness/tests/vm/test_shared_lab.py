"""As loopback/test_labgrid_night.py, with machines: two dispatchers on three virtual targets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.link.virtual import cache_root
from harness.tests.inner import NAVI
from harness.tests.sharedlab import Lab, nobody_loses, opened, shared

# Longest that a machine may take to come up on a host that does much else, in seconds.
LOADED_S = 1800.0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    driver, gpu, words = NAVI
    entry = (
        f'driver = "{driver}"\nvm = {{ {gpu}, cmdline = "{words}" }}\n'
        "limits = { boot_s = 600, command_s = 60, silence_s = 120 }\n"
    )
    service = {"address": "127.0.0.1", "username": "root"}
    with opened(tmp_path, service, lambda name: entry, {}, LOADED_S) as made:
        yield made


@pytest.mark.deep
def test_two_dispatchers_share_three_targets(lab: Lab) -> None:
    shared(lab, "pass", 0, (cache_root() / "virtual.json").read_bytes())


@pytest.mark.deep
def test_no_result_is_lost_whoever_dies(lab: Lab) -> None:
    manifest = (cache_root() / "virtual.json").read_bytes()
    nobody_loses(lab, "pass", 0, manifest)
