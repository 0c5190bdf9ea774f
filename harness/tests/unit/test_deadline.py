"""Deadlines: nested waits share one budget and never get more than it holds."""

from __future__ import annotations

import time

from harness.deadline import Deadline

__all__: list[str] = []


def test_what_is_left_only_shrinks_and_is_never_negative() -> None:
    deadline = Deadline(0.05)
    first = deadline.left()
    assert 0 < first <= 0.05
    assert not deadline.expired()
    time.sleep(0.06)
    assert deadline.left() == 0.0
    assert deadline.expired()


def test_one_of_the_past_is_expired_from_the_start() -> None:
    for seconds in (0, -1):
        assert Deadline(seconds).expired()
        assert Deadline(seconds).left() == 0.0


def test_a_capped_one_never_outlives_its_parent() -> None:
    parent = Deadline(1.0)
    assert parent.capped(5.0).left() <= 1.0
    short = parent.capped(0.1)
    assert short.seconds <= 0.1
    assert short.left() <= 0.1
    assert Deadline(0).capped(5.0).expired()


def test_a_pause_is_cut_at_the_deadline() -> None:
    deadline = Deadline(0.1)
    began = time.monotonic()
    assert deadline.pause(5.0)
    assert 0.09 <= time.monotonic() - began < 1.0
    assert not deadline.pause(5.0)
    assert time.monotonic() - began < 1.0


def test_it_reads_well_in_messages() -> None:
    assert repr(Deadline(2)).startswith("Deadline(2s, ")
    assert Deadline(2.5).seconds == 2.5


def test_one_without_end_is_allowed() -> None:
    forever = Deadline(float("inf"))
    assert not forever.expired()
    assert forever.capped(1.0).left() <= 1.0
