"""The pytest face: options, fixtures, and verdicts as outcomes.

Nothing else imports pytest.  `dut` is a connected target, `engine` each of its
engines; a finding fails the test that caused it, in its call phase.
"""

from __future__ import annotations

from harness.plugin.fixtures import deep, dut, fences, pinned, storm_s, window
from harness.plugin.life import (
    pytest_report_teststatus,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)
from harness.plugin.options import pytest_addoption
from harness.plugin.selection import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_generate_tests,
)
from harness.plugin.session import (
    pytest_configure,
    pytest_report_collectionfinish,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

# Pytest takes hooks and fixtures from this module by their names.
__all__ = [
    "deep",
    "dut",
    "fences",
    "pinned",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_report_collectionfinish",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "storm_s",
    "window",
]
