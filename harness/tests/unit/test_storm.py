"""A storm counts right whatever becomes of its jobs."""

from __future__ import annotations

import errno
from typing import Any

from harness.agent.errors import target
from harness.agent.workload.amdgpu_device import Engine
from harness.agent.workload.amdgpu_storm import Storm

__all__: list[str] = []

GFX = Engine("gfx", 0, "10.1", 1, [0], 4, 4)


class Fence:
    def __init__(self, context: int, first: int) -> None:
        self._identity = (context, first)

    def identity(self) -> tuple[int, int]:
        return self._identity

    def close(self) -> None:
        pass


class Device:
    """Numbers contexts and jobs; what `ends` says of a job's number overall is its end."""

    def __init__(self, ends: dict[int, Any], dies_after: int | None = None) -> None:
        self.ends = ends
        self.dies_after = dies_after
        self.contexts: list[int] = []
        self.freed: list[int] = []
        self.sent: dict[tuple[int, int], int] = {}
        self.in_flight = self.most = 0

    def buffer(self) -> Any:
        return type("Buffer", (), {"address": 0})

    def command(self, *_parts: Any) -> object:
        return object()

    def context(self) -> int:
        self.contexts.append(len(self.contexts) + 1)
        return self.contexts[-1]

    def free_context(self, context: int) -> None:
        self.freed.append(context)

    def send(self, context: int, _command: object) -> int:
        if context == 1 and self.dies_after is not None and len(self.sent) >= self.dies_after:
            raise target("AMDGPU_CS: ECANCELED", number=errno.ECANCELED)
        sequence = sum(1 for known, _ in self.sent if known == context) + 1
        self.sent[context, sequence] = len(self.sent)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        return sequence

    def fence(self, job: Any) -> Fence:
        return Fence(100 + job.context, job.sequence)

    def wait(self, job: Any, _until: int) -> bool:
        assert job.context not in self.freed, "a job is asked for through its context"
        self.in_flight -= 1
        end = self.ends.get(self.sent[job.context, job.sequence], True)
        if isinstance(end, int) and not isinstance(end, bool):
            raise target("AMDGPU_WAIT_CS", number=end)
        return bool(end)


def run(device: Device, count: int = 10, depth: int = 4) -> dict[str, Any]:
    storm = Storm(device, GFX, 0, depth, lambda address: [address])  # type: ignore[arg-type]
    return storm.run(count, 60.0, 10)


def test_all_is_well() -> None:
    device = Device({})
    told = run(device)
    assert (told["submitted"], told["completed"], told["pending"]) == (10, 10, 0)
    assert told["fences"] == [{"context": 101, "first": 1, "submitted": 10}]
    assert device.most == 4, "the depth is used, and kept to"


def test_an_error_is_an_end_and_is_counted_by_name() -> None:
    told = run(Device({3: errno.ETIME, 4: errno.ECANCELED, 5: errno.ECANCELED}))
    assert (told["submitted"], told["completed"]) == (10, 10)
    assert told["errors"] == {"ETIME": 1, "ECANCELED": 2}


def test_a_dead_context_is_replaced_and_freed_when_its_jobs_have_ended() -> None:
    device = Device({}, dies_after=6)
    told = run(device)
    assert (told["submitted"], told["completed"], told["refused"]) == (10, 10, 1)
    assert told["fences"] == [
        {"context": 101, "first": 1, "submitted": 6},
        {"context": 102, "first": 1, "submitted": 4},
    ]
    assert device.freed == [1]


def test_behind_a_job_that_does_not_end_no_more_are_submitted() -> None:
    told = run(Device({2: False}), count=1000)
    assert told["pending"] == 1
    assert told["submitted"] == told["completed"] + 1 < 10


def test_a_second_storm_goes_on_in_the_same_context() -> None:
    device = Device({})
    storm = Storm(device, GFX, 0, 4, lambda address: [address])  # type: ignore[arg-type]
    storm.run(3, 60.0, 10)
    told = storm.run(2, 60.0, 10)
    assert told["fences"] == [{"context": 101, "first": 4, "submitted": 2}]
