"""The ladder: ways to bring a target back, from the gentlest to its power switch.

Each rung has its own time; what each came to is in the journal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.evidence.journal import Journal
from harness.link.dial import Stranger

__all__ = ["Rung", "climb"]

log = logging.getLogger(__name__)


class Rung(NamedTuple):
    """One way.  `go` returns with the target back, or raises HarnessError."""

    name: str
    seconds: float
    go: Callable[[Deadline], None]


def climb(rungs: Sequence[Rung], journal: Journal, say: Callable[[str], None]) -> str:
    """Take one after the other until the target is back; "" then, else why none helped."""
    troubles: list[str] = []
    for rung in rungs:
        say(f"recovering: {rung.name}")
        journal.add("rung", name=rung.name)
        began = time.monotonic()
        try:
            rung.go(Deadline(rung.seconds))
        except HarnessError as error:
            log.info("%s: %s", rung.name, error)
            troubles.append(f"{rung.name}: {error.what}")
            journal.add("rung-failed", name=rung.name, reason=str(error), seconds=_since(began))
            if isinstance(error, Stranger):
                break  # whoever that is: it is not ours to reset
        else:
            journal.add("recovered", name=rung.name, seconds=_since(began))
            return ""
    return "; ".join(troubles) or "there is no way to"


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
