"""How a test's window is opened on a target to which something happened since the last one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import LabError
from harness.plugin import life
from harness.plugin.stash import FLEET, WINDOW

GONE = LabError("the agent ended", where="box", cure="see its console")


class Target:
    """A Dut whose windows open as `opens` says: an error, or debug_locks."""

    def __init__(self, *opens: LabError | int, died: str = "", locks: int = 1) -> None:
        self.opens, self.died, self.locks = list(opens), died, locks
        self.did: list[str] = []
        self.ailing, self.unfit, self.boot_id = (), "", "b"
        self.target = SimpleNamespace(name="box", policy=SimpleNamespace(rearm="reboot"))
        self.run = SimpleNamespace(
            journal=SimpleNamespace(add=lambda what, **_: self.did.append(what))
        )

    def begin(self, test: str, *, destructive: bool) -> Any:
        told = self.opens.pop(0)
        if isinstance(told, LabError):
            raise told
        return SimpleNamespace(health_before={"debug_locks": told})

    def looked(self) -> dict[str, int]:
        return {"debug_locks": self.locks}

    def inquire(self) -> str:
        return self.died

    def ready(self) -> None:
        self.did.append("ready")

    def rearm(self) -> None:
        self.did.append("rearm")

    def tell_between(self, window: Any) -> None:
        self.did.append("between")


def _open(dut: Target) -> Any:
    stash: dict[Any, Any] = {}
    config = SimpleNamespace(stash={FLEET: SimpleNamespace(check=lambda name: None)})
    item = SimpleNamespace(
        config=config, stash=stash, nodeid="t::t", get_closest_marker=lambda name: None,
        callspec=SimpleNamespace(params={}),
    )  # fmt: skip
    life._open(cast(Any, item), cast(Any, dut))
    return stash[WINDOW]


def test_what_went_off_between_two_tests_is_told_and_armed_again() -> None:
    dut = Target(0, 1)
    assert _open(dut).health_before == {"debug_locks": 1}
    assert dut.did == ["ready", "test-start", "between", "rearm", "test-start"]


def test_what_went_off_in_the_last_test_is_armed_before_the_next() -> None:
    dut = Target(1, locks=0)
    _open(dut)
    assert dut.did == ["ready", "rearm", "test-start"]


def test_a_target_that_died_between_two_tests_is_brought_back_for_the_next() -> None:
    dut = Target(GONE, 1, died="the kernel panicked: by hand")
    _open(dut)
    assert dut.did == ["ready", "test-start", "ready", "test-start"]


def test_a_link_that_broke_there_is_the_labs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    monkeypatch.setattr(
        "harness.lab.resume.close_unopened", lambda run, test, why: kept.append(why)
    )
    with pytest.raises(LabError, match="the agent ended"):
        _open(Target(GONE))
    assert kept == ["the agent ended"]
