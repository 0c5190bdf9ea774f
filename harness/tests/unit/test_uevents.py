"""GPU events out of uevents: the end of a reset that the log does not tell."""

from __future__ import annotations

import json
from typing import Any

from harness.kernel.uevents import find

__all__: list[str] = []


def line(mono: int, subsystem: str = "drm", **properties: str) -> bytes:
    told: dict[str, Any] = {
        "mono": mono,
        "seqnum": 1000,
        "action": "change",
        "devpath": "/devices/pci0000:00/0000:00:02.0/drm/card0",
        "subsystem": subsystem,
        "properties": properties,
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def test_a_reset_ends_with_error_0() -> None:
    lines = [line(1_000_000, ERROR="1"), line(2_000_000, RESET="1"), line(3_000_000, ERROR="0")]
    (event,) = find(lines, 0, "")
    assert (event.step, event.engine, event.seq, event.usec) == ("reset-done", "", -1, 3000)
    assert event.text.endswith("card0: ERROR=0")


def test_what_was_before_or_is_another_subsystems_is_left_out() -> None:
    lines = [line(1_000, ERROR="0"), line(5_000, "usb", ERROR="0"), line(6_000, HOTPLUG="1")]
    assert find(lines, 2_000, "") == []
    assert len(find(lines, 0, "")) == 1


def test_torn_lines_are_left_out() -> None:
    whole = line(1_000, ERROR="0")
    assert find([whole[:-20], b'{"ERROR"', b"[1]\n", b'"ERROR"\n'], 0, "") == []
    assert len(find([whole[:40], whole], 0, "")) == 1


def test_another_cards_reset_is_left_out() -> None:
    lines = [line(1_000, ERROR="0"), line(2_000, ERROR="0").replace(b"00:02.0", b"03:00.0")]
    assert [event.usec for event in find(lines, 0, "0000:00:02.0")] == [1]
    assert [event.usec for event in find(lines, 0, "0000:03:00.0")] == [2]
    assert len(find(lines, 0, "card0")) == 2
