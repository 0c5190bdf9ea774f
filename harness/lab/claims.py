"""Which targets of a night are this dispatcher's, where several work on them at once.

A dispatcher claims a target before it starts its session and gives it back when that has ended;
with a name that all of them share, each target is tested by one of them.  Without a coordinator
all are ours, and each session's own reservation is what keeps two apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Coordinator, Target

if TYPE_CHECKING:
    from harness.labgrid.claims import PlaceClaims

__all__ = ["ALL_OURS", "Answer", "Claims", "claimed", "claims_for"]

# Seconds between questions for a target that others have, and how long to wait for it.
_LOOK_S = 0.5
_WAIT_S = 8 * 3600.0


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


@contextmanager
def claimed(
    target: Target, what: str, say: Callable[[str], None], wait_s: float = _WAIT_S
) -> Iterator[None]:
    """Have `target` for all sessions that are started inside, one after the other: what a session
    left there (a kernel, say) is as it was when the next one comes.

    Raises LabError when others have it for longer than `wait_s`.
    """
    claims, deadline, said = claims_for([target], "", what), Deadline(wait_s), ""
    try:
        while (answer := claims.ask(target.name)).state == "busy" and deadline.pause(_LOOK_S):
            if answer.who and answer.who != said:
                said = answer.who
                say(f"{target.name}: waiting: {said}")
        if answer.state != "ours":
            raise LabError(
                f"not to be had: {answer.who or said}", where=target.name, cure="see lab targets"
            )
        before = {name: os.environ.get(name) for name in answer.env}
        os.environ.update(answer.env)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            claims.end(target.name, done=False)
    finally:
        claims.close()
