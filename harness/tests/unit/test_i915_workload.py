"""The i915 workload's operations, on a kernel of our own making."""

from __future__ import annotations

import errno
import struct
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
        {"name": "rcs0", "class": 0, "instance": 0, "recipes": ["spin", "invalid"]}
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
    assert struct.unpack_from("<I", hang.buffer.memory, 64)[0] == i915_batches.END
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

    def refuse(_asked: Any) -> None:
        raise AgentError("target", "EXECBUFFER2", number=errno.EIO)

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
