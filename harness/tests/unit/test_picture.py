"""The picture of a lock cycle: well-formed and bounded whatever the report holds."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from harness.kernel import picture
from harness.kernel.cycle import Cycle, Turn, cycle_of
from harness.kernel.lockdep import Lock
from harness.kernel.stack import Frame
from harness.tests.unit.test_lockdep import FENCED, INVERSION, RECURSIVE, parsed

SVG = "{http://www.w3.org/2000/svg}"


def drawn(cycle: Cycle | None, title: str = "a cycle") -> ElementTree.Element:
    assert cycle is not None
    return ElementTree.fromstring(picture.render(cycle, title))


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def boxes(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in root.iter(f"{SVG}rect") if e.get("class", "").startswith("box")]


def test_boxes_in_order_and_closed() -> None:
    root = drawn(cycle_of(parsed(FENCED)))
    shown = words(root)
    order = ["dma_fence_map", "console_lock", "fs_reclaim", "dma_fence_map"]
    assert [word for word in shown if word in order] == order
    assert len(boxes(root)) == 4
    assert "drm_sched_job_timedout > foo_recover > foo_suspend" in shown
    assert "taken while the one above is held, in foo: this report" in shown
    assert "boot priming" in shown


@pytest.mark.parametrize("text", [RECURSIVE, INVERSION], ids=["recursive", "interrupt"])
def test_other_cycles_are_drawn_too(text: str) -> None:
    cycle = cycle_of(parsed(text))
    assert cycle is not None
    assert len(boxes(drawn(cycle))) == len(cycle.turns) + 1


def test_what_the_log_does_not_hold_is_drawn_as_a_gap() -> None:
    root = drawn(cycle_of(parsed(FENCED.partition("which lock already")[0])))
    assert "what lies between is not in the log" in words(root)


@pytest.mark.parametrize("name", ["<script>&\"'", "\x00\x0b\ud800\uffff", "ä\u202e", "x" * 5000])
def test_hostile_names_are_escaped_and_bounded(name: str) -> None:
    turns = (Turn(Lock(name), (Frame(name),)), Turn(Lock("b")))
    svg = picture.render(Cycle(turns), name)
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert max(len(word) for word in words(root)) <= 140


def test_endless_chain_is_cut_and_says_so() -> None:
    root = drawn(Cycle(tuple(Turn(Lock(f"lock{n}")) for n in range(500))))
    assert len(boxes(root)) == 49
    assert "and 452 more" in words(root)
