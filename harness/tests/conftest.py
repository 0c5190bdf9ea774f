"""Tests of the harness: what is too long for CI runs with --deep only (harness.plugin)."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deep: too long for CI; runs with --deep")
    if config.pluginmanager.hasplugin("hypothesispytest"):  # an inner session does without
        from hypothesis import HealthCheck, settings

        # How long an example takes says how busy this host is, and nothing else.
        slow = [HealthCheck.too_slow]
        settings.register_profile("lab", deadline=None, suppress_health_check=slow)
        settings.load_profile("lab")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--deep"):
        for item in items:
            if item.get_closest_marker("deep"):
                item.add_marker(pytest.mark.skip(reason="too long for CI: lab test --deep"))
