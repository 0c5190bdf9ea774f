"""Whether the next test may have the target."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from harness.agent import facts
from harness.evidence.finding import Finding
from harness.live.health import Ailment, ailments

PCI = "0000:00:02.0"
WELL: dict[str, Any] = {"taint": 0, "stuck": [], "devices": [PCI]}
TASK = {"pid": 7, "comm": "kworker/0:1"}


def _finding(kind: str, title: str, severity: Any = "fail") -> Finding:
    return Finding(kind, severity, title, "0")


def test_a_well_target_has_nothing() -> None:
    assert ailments(WELL, WELL, PCI, []) == ()
    assert ailments({}, {}, "", []) == (), "of a dead one nothing is known"
    assert ailments(WELL, {}, PCI, []) == (), "nor where a link broke"


@pytest.mark.parametrize(
    ("after", "findings", "wanted"),
    [
        ({"taint": 1 << 7}, [], Ailment("machine", "the kernel has oopsed (taint D)")),
        ({"taint": 1 << 14 | 1 << 9}, [], Ailment("machine", "a CPU was locked up (taint L)")),
        ({"stuck": [TASK]}, [], Ailment("task", "kworker/0:1 (pid 7) sleeps uninterruptibly")),
        ({"devices": []}, [], Ailment("gpu", f"{PCI} is gone")),
        ({}, [_finding("oops.null", "BUG: in x")] * 2, Ailment("machine", "BUG: in x")),
        ({}, [_finding("recovery", "wedged")], Ailment("gpu", "wedged")),
    ],
)
def test_what_ails_it_is_named(
    after: dict[str, Any], findings: list[Finding], wanted: Ailment
) -> None:
    assert ailments(WELL, {**WELL, **after}, PCI, findings) == (wanted,)


def test_what_was_so_before_or_is_no_failure_is_nothing_new() -> None:
    stuck = {**WELL, "stuck": [TASK], "devices": []}
    assert ailments(stuck, stuck, PCI, []) == ()
    harmless = [_finding("lockdep", "circular"), _finding("oops", "known", "note")]
    harmless.append(_finding("recovery", "reset-done in a test that hangs nothing"))
    assert ailments(WELL, {**WELL, "taint": 1 << 9}, PCI, harmless) == ()


def test_the_agent_tells_who_sleeps_at_both_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{7: "stuck", 8: "busy"}, {7: "stuck", 9: "new"}])
    asked: list[list[str]] = []

    def look(names: Iterable[str]) -> dict[int, str]:
        asked.append(list(names))
        return next(looks, {7: "stuck"})

    clock = iter([0.0, 0.0, 1e9])
    asleep = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
    monkeypatch.setattr(facts, "_sleeping", look)
    monkeypatch.setattr(facts, "time", asleep)
    assert facts.health()["stuck"] == [{"pid": 7, "comm": "stuck"}]
    assert asked[1] == ["7", "8"], "only those who slept are looked at again"
    assert asked[2] == ["7"], "nor who moved"


def test_who_waits_for_a_disk_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{8: "busy"}, {8: "busy"}, {}])
    monkeypatch.setattr(facts, "_sleeping", lambda names: next(looks))
    monkeypatch.setattr(facts, "_LOOK_SECONDS", 1e9)
    assert facts.health()["stuck"] == []
