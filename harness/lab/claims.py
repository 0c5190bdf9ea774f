"""Which targets of a night are this dispatcher's, where several work on them at once.

A dispatcher claims a target before it starts its session and gives it back when that has ended;
with a name that all of them share, each target is tested by one of them.  Without a coordinator
all are ours, and each session's own reservation is what keeps two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from harness.inventory import Coordinator, Target

if TYPE_CHECKING:
    from harness.labgrid.claims import PlaceClaims

__all__ = ["ALL_OURS", "Answer", "Claims", "claims_for"]


class Answer(Struct, frozen=True):
    """What becomes of a target: ours to test now, busy (ask again), done by another, or failed.

    `who` has it, or had it, or why nobody can; `env` is for the session's environment.
    """

    state: Literal["ours", "busy", "done", "failed"]
    who: str = ""
    env: Mapping[str, str] = {}


class Claims(Protocol):
    """Asked by a night; never raises."""

    def ask(self, target: str) -> Answer:
        """Claim it; to be asked again and again while it is busy."""

    def end(self, target: str, *, done: bool) -> None:
        """Its session has ended.  `done`: nobody else of this night need test it."""

    def close(self) -> None:
        """The night is over: give back what is left."""


class _AllOurs:
    def ask(self, target: str) -> Answer:
        return Answer("ours")

    def end(self, target: str, *, done: bool) -> None:
        return

    def close(self) -> None:
        return


ALL_OURS: Claims = _AllOurs()


class _Mixed:
    """Targets with a place are claimed there, others are ours."""

    def __init__(self, places: PlaceClaims) -> None:
        self._places = places

    def ask(self, target: str) -> Answer:
        if target not in self._places.targets:
            return Answer("ours")
        state, who, env = self._places.ask(target)
        return Answer(state, who, env)

    def end(self, target: str, *, done: bool) -> None:
        if target in self._places.targets:
            self._places.end(target, done=done)

    def close(self) -> None:
        self._places.close()


def claims_for(targets: Sequence[Target], share: str, what: str) -> Claims:
    """For a night of these targets; `share` is the name of what several dispatchers do together,
    "" alone; `what` is shown to others.  Raises UsageError where labgrid is not installed."""
    shared = {target.name: target for target in targets if target.coordinator is not None}
    spec: Coordinator | None = next((t.coordinator for t in shared.values()), None)
    if spec is None:
        return ALL_OURS
    from harness.labgrid.claims import PlaceClaims

    return _Mixed(PlaceClaims(shared, spec, share, what))
