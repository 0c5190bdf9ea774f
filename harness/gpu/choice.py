"""The card under test, out of all that the agent found on a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import TargetError
from harness.inventory import Target

__all__ = ["choose"]


def choose(cards: Sequence[dict[str, Any]], target: Target) -> dict[str, Any]:
    """By PCI address where `target` names one, else its driver's only one.

    `cards` as the agent's operation of that name tells them.  Raises TargetError where
    none or several match.
    """
    wanted = [
        card
        for card in cards
        if card["driver"] == target.driver and target.pci in (None, card["pci"])
    ]
    if len(wanted) == 1:
        return wanted[0]
    found = ", ".join(f"{c['name']} {c['driver']} {c['pci']}" for c in cards)
    what = "several cards match" if wanted else f"no card driven by {target.driver}"
    raise TargetError(
        f"{what}; found: {found or 'no DRM card'}",
        where=target.name,
        cure='set pci = "0000:bb:dd.f"' if wanted else "load the driver; see the kernel log",
    )
