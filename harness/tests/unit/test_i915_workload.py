"""The i915 workload's operations, on a kernel of our own making."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from harness.agent.arguments import Arguments
from harness.agent.errors import AgentError
from harness.agent.workload import i915_batches
from harness.agent.workload.i915 import I915Workload, open_workload
from harness.tests.unit.i915_kernel import G33, RCS, TIGER_LAKE, Kernel

__all__: list[str] = []

Do = Callable[..., dict[str, Any]]


@pytest.fixture
def gen3(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(G33, [(RCS, 0)], contexts=False)
    kernel.install(monkeypatch)
    return kernel


def refuse(_asked: Any) -> None:
    raise AgentError("target", "EXECBUFFER2", number=errno.EIO)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def timers() -> set[threading.Thread]:
    """Those that have neither run out nor been cancelled."""
    every = threading.enumerate()
    return {one for one in every if isinstance(one, threading.Timer) and not one.finished.is_set()}


def opened(bailout: float = 60.0) -> tuple[I915Workload, Do]:
    workload = open_workload("/dev/dri/renderD128", "", bailout, {})

    def do(op: str, **arguments: Any) -> dict[str, Any]:
        return workload.perform(op, Arguments(op, arguments))

    return workload, do


def test_engines_tell_what_can_hang_them(gen3: Kernel) -> None:
    _, do = opened()
    told = do("engines")
    assert (told["generation"], told["gpu_reset"], told["contexts"]) == (3, 1, False)
    assert told["engines"] == [
        {"name": "rcs0", "class": 0, "instance": 0, "recipes": ["spin", "invalid"], "slow": True}
    ]


def test_without_contexts_each_is_a_file_of_its_own(gen3: Kernel) -> None:
    _, do = opened()
    numbers = [do("context")["context"] for _ in range(3)]
    assert len(set(numbers)) == 3
    assert gen3.opened == 3, "the first is the file that is open already"
    do("context.free", context=numbers[1])
    with pytest.raises(AgentError, match="no context"):
        do("canary", engine="rcs0", context=numbers[1])
    do("hang", engine="rcs0", context=numbers[2])
    assert gen3.sent[-1].rsvd1 == 0
    # What hung in the first is held against that file for good.
    do("context.free", context=numbers[0])
    do("context")
    assert gen3.opened == 4


def test_with_contexts_one_file_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(TIGER_LAKE, [(RCS, 0), (1, 0)])
    kernel.install(monkeypatch)
    _, do = opened()
    first, second = do("context")["context"], do("context")["context"]
    for number in (first, second):
        do("hang", engine="bcs0", context=number)
    assert kernel.opened == 1
    assert kernel.sent[0].rsvd1 != kernel.sent[1].rsvd1 != 0


def test_a_hang_is_released_by_writing_its_end(gen3: Kernel) -> None:
    workload, do = opened()
    gen3.status = 0
    told = do("hang", engine="rcs0")
    assert told["releasable"]
    assert (told["context"], told["seqno"]) == (None, None), "its name may have been cut"
    waited = do("wait", job=told["job"], timeout_ns=1000)
    assert (waited["signaled"], waited["wait_error"]) == (False, 0)
    (hang,) = workload._hangs
    assert do("release", job=told["job"]) == {"released": True}
    assert struct.unpack_from("<I", hang.memory, 64)[0] == i915_batches.END
    stuck = do("hang", engine="rcs0", recipe="invalid")
    assert do("release", job=stuck["job"]) == {"released": False}


def test_a_recipe_that_does_not_fit_is_refused(gen3: Kernel) -> None:
    _, do = opened()
    with pytest.raises(AgentError, match="'unterminated' does not hang rcs0"):
        do("hang", engine="rcs0", recipe="unterminated")
    with pytest.raises(AgentError, match="no engine vcs0"):
        do("hang", engine="vcs0")


def test_a_fence_s_end_is_told(gen3: Kernel) -> None:
    _, do = opened()
    job = do("hang", engine="rcs0")["job"]
    gen3.status = -errno.EIO
    waited = do("wait", job=job, timeout_ns=1000)
    assert (waited["signaled"], waited["error"]) == (True, -errno.EIO)
    assert do("status", job=job)["error"] == -errno.EIO
    assert do("reset_state") == {"raw": [1, 0], "guilty": True, "innocent": False}


def test_a_canary_says_where_it_failed(gen3: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    _, do = opened()
    # Nothing runs its batch, so that its value is missing.
    told = do("canary", engine="rcs0")
    assert (told["ok"], told["stage"], told["value"]) == (False, "value", 0)
    gen3.status = -errno.EIO
    assert do("canary", engine="rcs0")["stage"] == "fence"
    monkeypatch.setattr(gen3, "i915_gem_execbuffer2_wr", refuse)
    told = do("canary", engine="rcs0")
    assert told == {"ok": False, "stage": "submit", "errname": "EIO"}


def test_a_storm_goes_on_in_a_new_context(gen3: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    _, do = opened()
    submit, banned = gen3.i915_gem_execbuffer2_wr, [False, False, True]

    def ban_once(asked: Any) -> None:
        if banned and banned.pop(0):
            raise AgentError("target", "EXECBUFFER2", number=errno.EIO)
        submit(asked)

    monkeypatch.setattr(gen3, "i915_gem_execbuffer2_wr", ban_once)
    do("context")  # the file that is open already is somebody's
    told = do("storm", engine="rcs0", count=12, depth=4)
    assert (told["submitted"], told["completed"], told["pending"]) == (12, 12, 0)
    assert (told["refused"], told["errors"]) == (1, {})
    assert [one["submitted"] for one in told["fences"]] == [2, 10]
    assert gen3.opened == 3


@pytest.mark.parametrize("own_file", [True, False])
def test_a_freed_context_s_hangs_are_ended_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, own_file: bool
) -> None:
    kernel = Kernel(*((G33, [(RCS, 0)], False) if own_file else (TIGER_LAKE, [(RCS, 0)])))
    kernel.install(monkeypatch)
    kernel.status = 0
    workload, do = opened()
    kept, freed = do("context")["context"], do("context")["context"]
    before = timers()
    recipes = ("spin", "invalid")
    gone = [do("hang", engine="rcs0", context=freed, recipe=name)["job"] for name in recipes]
    hangs = list(workload._hangs)
    fences = [workload._jobs[job].fence.fd for job in gone]
    stays = do("hang", engine="rcs0", context=kept)["job"]

    do("context.free", context=freed)
    assert [hang.released_at is not None for hang in hangs] == [True, False]
    assert all(hang.memory.closed for hang in hangs), "a mapping keeps its file open"
    assert not any(is_open(fd) for fd in fences)
    assert len(timers() - before) == 1
    for job in gone:
        with pytest.raises(AgentError, match="no job"):
            do("wait", job=job, timeout_ns=1000)
    if own_file:
        assert not is_open(kernel.files[-1])
    assert do("release", job=stays) == {"released": True}
    assert not do("wait", job=stays, timeout_ns=1000)["wait_error"]
    workload.release_all()


def test_what_is_refused_leaves_nothing(gen3: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, do = opened()
    do("context")
    before = timers()
    monkeypatch.setattr(gen3, "i915_gem_execbuffer2_wr", refuse)
    with pytest.raises(AgentError, match="EXECBUFFER2"):
        do("hang", engine="rcs0")
    assert timers() <= before
    assert workload._hangs == []
    assert gen3.closed == [1]
    assert gen3.maps[-1].closed


@pytest.mark.parametrize("step", ["i915_gem_create", "i915_gem_mmap_offset"])
def test_a_canary_s_second_buffer_may_fail(
    gen3: Kernel, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _, do = opened()
    do("canary", engine="rcs0")
    real, made = getattr(gen3, step), gen3.handles

    def once(asked: Any) -> None:
        if len(gen3.maps) > made:
            raise AgentError("target", step, number=errno.ENOMEM)
        real(asked)

    monkeypatch.setattr(gen3, step, once)
    with pytest.raises(AgentError, match=step):
        do("canary", engine="rcs0")
    assert len(gen3.maps) == made + 1
    assert sorted(gen3.closed) == list(range(1, gen3.handles + 1))
    assert all(memory.closed for memory in gen3.maps)


def test_another_storm_frees_the_context_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(TIGER_LAKE, [(RCS, 0)])
    kernel.install(monkeypatch)
    _, do = opened()
    do("storm", engine="rcs0", count=4, depth=4)
    last = kernel.sent[-1].rsvd1
    assert last not in kernel.freed
    do("storm", engine="rcs0", count=4, depth=2)
    assert last in kernel.freed
    assert kernel.sent[-1].rsvd1 not in kernel.freed
