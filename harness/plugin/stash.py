"""Keys: what the plugin remembers of a session and of each test.

Pytest keeps it in the stash of its config and of each item; there are no globals.
"""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.evidence.rundir import Window
from harness.fleet import Fleet
from harness.known import KnownIssues
from harness.live.dut import Dut
from harness.verdict import Verdict

__all__ = ["FLEET", "KNOWN", "SHOWN", "TROUBLE", "VERDICT", "WINDOW", "dut_of", "target_of"]

# Of the session; FLEET and the others are there only where a target was named.
FLEET = pytest.StashKey[Fleet]()
KNOWN = pytest.StashKey[KnownIssues]()
# Findings that were shown in full, by signature, with the test that met them.
SHOWN = pytest.StashKey[dict[str, str]]()
# What kept the session from ending well.
TROUBLE = pytest.StashKey[HarnessError]()
# Of a test on a target.
WINDOW = pytest.StashKey[Window]()
VERDICT = pytest.StashKey[Verdict]()


def target_of(item: pytest.Item) -> str:
    """The name of the target that `item` runs on, or ""."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("_target", "")) if callspec else ""


def dut_of(item: pytest.Item) -> Dut | None:
    """The target that `item` runs on, connected; None where it runs on none.

    Raises what its first connection met.
    """
    fleet = item.config.stash.get(FLEET, None)
    name = target_of(item)
    return fleet.dut(name) if fleet and name else None
