"""A commit behind a job: watched from its call to its end, and let go of whatever happens."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.client import Client, Fence
from harness.live.display import Commit, Display, Frame
from harness.live.pending import Pending

PENDING, SIGNALED = Fence(False, 0, None), Fence(True, 0, 1.0)


class Played:
    """A display and a client: `asleep` is where the process sleeps from look to look, the commit
    is done when the job is let go, or, unless it `waits`, at once."""

    def __init__(self, *asleep: str, waits: bool = True, fences: tuple[Fence, ...] = ()) -> None:
        self._asleep, self._waits, self._fences = list(asleep), waits, list(fences)
        self.released = threading.Event()

    def share(self, client: Any) -> Frame:
        return Frame(1, 2)

    def asleep(self) -> str:
        return self._asleep.pop(0) if len(self._asleep) > 1 else self._asleep[0]

    def commit(self, frame: Frame, how: str, patience_s: float, *, disturbed: bool) -> Commit:
        if self._waits:
            assert self.released.wait(10.0)
        return Commit(True, 0.1)

    def hang(self, engine: Any, writes: int) -> int:
        return 1

    def wait(self, job: int, deadline: Deadline) -> Fence:
        return self._fences.pop(0)

    def release(self, job: int) -> None:
        self.released.set()


def made(played: Played) -> Pending:
    return Pending(cast(Display, played), cast(Client, played), cast(Engine, None), "modeset", 10.0)


def test_a_commit_has_begun_when_its_process_sleeps_elsewhere() -> None:
    with made(Played("pipe_read", "pipe_read", "", "dma_fence_default_wait")) as commit:
        assert commit.begun(Deadline(10.0))
        assert not commit.done()
        assert commit.release() < 10.0
        assert commit.result().came


def test_a_commit_whose_call_was_not_made_has_not_begun() -> None:
    played = Played("pipe_read")
    with made(played) as commit:
        assert not commit.begun(Deadline(0.2))
    assert played.released.is_set()


def test_a_commit_that_does_not_wait_is_none_that_has_begun() -> None:
    with made(Played("pipe_read", waits=False)) as commit:
        commit.result()
        assert not commit.begun(Deadline(10.0))


@pytest.mark.parametrize(("hung", "looks"), [(True, ["standing-still-0s"]), (False, [])])
def test_a_recovery_that_stands_still_is_looked_at(
    hung: bool, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.live.pending._STILL_S", (0.0,))
    seen: list[str] = []
    with made(Played("pipe_read", fences=(PENDING, PENDING, SIGNALED))) as commit:
        assert commit.watch(Deadline(10.0), lambda: hung, seen.append) == SIGNALED
    assert seen == looks
