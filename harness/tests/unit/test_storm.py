"""A storm counts right whatever becomes of its jobs."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness.agent.errors import AgentError, target
from harness.agent.workload.storm import Storm

__all__: list[str] = []


class Ring:
    """A port that numbers contexts and jobs; `ends` says of a job's number overall how it ends."""

    dead = errno.ECANCELED

    def __init__(self, ends: dict[int, Any], dies_after: int | None = None) -> None:
        self.ends = ends
        self.dies_after = dies_after
        self.dying = 0 if dies_after is None else 1
        self.contexts: list[int] = []
        self.freed: list[int] = []
        self.sent: dict[tuple[int, int], int] = {}
        self.in_flight = self.most = 0

    def context(self) -> int:
        self.contexts.append(len(self.contexts) + 1)
        return self.contexts[-1]

    def free_context(self, context: int) -> None:
        self.freed.append(context)

    def send(self, context: int, _slot: int) -> tuple[int, int]:
        if context <= self.dying and len(self.sent) >= (self.dies_after or 0):
            raise target("AMDGPU_CS: ECANCELED", number=errno.ECANCELED)
        sequence = sum(1 for known, _ in self.sent if known == context) + 1
        self.sent[context, sequence] = len(self.sent)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        return context, sequence

    def identity(self, job: tuple[int, int]) -> tuple[int, int]:
        return 100 + job[0], job[1]

    def wait(self, job: tuple[int, int], _until: int) -> bool:
        assert job[0] not in self.freed, "a job is asked for through its context"
        self.in_flight -= 1
        end = self.ends.get(self.sent[job], True)
        if isinstance(end, int) and not isinstance(end, bool):
            raise target("AMDGPU_WAIT_CS", number=end)
        return bool(end)


def run(device: Ring, count: int = 10, depth: int = 4) -> dict[str, Any]:
    storm = Storm(device, "gfx", depth)
    return storm.run(count, 60.0, 10)


def test_all_is_well() -> None:
    device = Ring({})
    told = run(device)
    assert (told["submitted"], told["completed"], told["pending"]) == (10, 10, 0)
    assert told["fences"] == [{"context": 101, "first": 1, "submitted": 10}]
    assert device.most == 4, "the depth is used, and kept to"


def test_an_error_is_an_end_and_is_counted_by_name() -> None:
    told = run(Ring({3: errno.ETIME, 4: errno.ECANCELED, 5: errno.ECANCELED}))
    assert (told["submitted"], told["completed"]) == (10, 10)
    assert told["errors"] == {"ETIME": 1, "ECANCELED": 2}


def test_a_dead_context_is_replaced_and_freed_when_its_jobs_have_ended() -> None:
    device = Ring({}, dies_after=6)
    told = run(device)
    assert (told["submitted"], told["completed"], told["refused"]) == (10, 10, 1)
    assert told["fences"] == [
        {"context": 101, "first": 1, "submitted": 6},
        {"context": 102, "first": 1, "submitted": 4},
    ]
    assert device.freed == [1]


def test_a_gpu_that_refuses_every_context_ends_the_storm() -> None:
    device = Ring({}, dies_after=6)
    device.dying = 1 << 30
    with pytest.raises(AgentError) as raised:
        run(device)
    assert raised.value.number == errno.ECANCELED
    assert len(device.contexts) == 2


def test_behind_a_job_that_does_not_end_no_more_are_submitted() -> None:
    told = run(Ring({2: False}), count=1000)
    assert told["pending"] == 1
    assert told["submitted"] == told["completed"] + 1 < 10


def test_a_second_storm_goes_on_in_the_same_context() -> None:
    device = Ring({})
    storm = Storm(device, "gfx", 4)
    storm.run(3, 60.0, 10)
    told = storm.run(2, 60.0, 10)
    assert told["fences"] == [{"context": 101, "first": 4, "submitted": 2}]


def test_a_storm_that_is_closed_frees_its_context() -> None:
    device = Ring({}, dies_after=6)
    storm = Storm(device, "gfx", 4)
    storm.close()
    assert device.freed == []
    storm.run(10, 60.0, 10)
    storm.close()
    storm.close()
    assert device.freed == [1, 2]
