"""Selection: which tests run on which target, how often, and in which order.

Each that asks for a `dut` runs on every target of the session, and on each of its engines
where it asks for an `engine`; what a resumed run has judged does not run again.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness import masking
from harness.errors import HarnessError
from harness.plugin.stash import FLEET, KNOWN, target_of

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dut" not in metafunc.fixturenames:
        return
    fleet = metafunc.config.stash.get(FLEET, None)
    if fleet is None:
        no_target = pytest.mark.skip(reason="no --target given")
        metafunc.parametrize("_target", [pytest.param("", marks=no_target, id="no-target")])
        return
    if (count := metafunc.config.getoption("--count")) > 1:
        # The first keeps the test's name (harness.evidence.rundir.attempt_of reads the others').
        again = [f"@{attempt}" for attempt in range(2, count + 1)]
        metafunc.fixturenames.append("_attempt")
        metafunc.parametrize("_attempt", range(count), ids=[pytest.HIDDEN_PARAM, *again])
    several = len(fleet.targets) > 1
    if "engine" not in metafunc.fixturenames:
        # With one target its name would only lengthen every test's id.
        ids = list(fleet.targets) if several else [pytest.HIDDEN_PARAM]
        metafunc.parametrize("_target", list(fleet.targets), ids=ids, scope="session")
        return
    pairs: list[Any] = []
    for name in fleet.targets:
        prefix = f"{name}-" if several else ""
        try:
            for engine in fleet.dut(name).engines():
                pairs.append(pytest.param(name, engine, id=prefix + engine.name))
        except HarnessError:
            # Collected all the same: its error is told where the test would have run.
            pairs.append(pytest.param(name, None, id=f"{prefix}unreachable"))
    metafunc.parametrize(("_target", "engine"), pairs, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return
    again = [item for item in items if item.nodeid in fleet.judged(target_of(item))]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]
    items[:] = masking.order(
        items,
        config.stash[KNOWN],
        lambda item: fleet.targets.get(target_of(item)),
        lambda item: item.get_closest_marker("without_lockdep") is not None,
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    fleet = session.config.stash.get(FLEET, None)
    if fleet is None or session.config.option.collectonly:
        return
    for name in set(fleet.targets) - {target_of(item) for item in session.items}:
        fleet.settle(name)
