"""What grows with every step is a leak; what grows once, or comes and goes, is none."""

from __future__ import annotations

import pytest

from harness.live.held import LIMITS, Held, grown

NAMES = list(LIMITS)


def levels(name: str, *amounts: int, slabs: tuple[int, ...] = ()) -> list[Held]:
    """Levels that differ in one amount, and in the objects of one slab."""
    return [
        Held({**dict.fromkeys(LIMITS, 1000), name: amount}, {"job": slab} if slabs else {})
        for amount, slab in zip(amounts, slabs or amounts, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_grows_each_time_is_told(name: str) -> None:
    by = int(10 * LIMITS[name])
    (said,) = grown(levels(name, 100, 100 + by, 100 + 2 * by), 10)
    assert name in said
    assert f"[100, {100 + by}, {100 + 2 * by}]" in said


@pytest.mark.parametrize("name", NAMES)
def test_what_grows_once_or_a_little_is_none(name: str) -> None:
    by = int(10 * LIMITS[name])
    assert grown(levels(name, 100, 100 + 9 * by, 100 + 9 * by), 10) == []
    assert grown(levels(name, 100, 100, 100 + 9 * by), 10) == []
    assert grown(levels(name, 100, 99 + by, 98 + 2 * by), 10) == []
    assert grown(levels(name, 100, 50, 100), 10) == []


def test_the_slab_that_grew_is_named_beside_a_leak() -> None:
    leaking = levels("KiB of slabs", 0, 2000, 4000, slabs=(5, 25, 45))
    assert grown(leaking, 10)[1] == "of slabs grew job [5, 25, 45]"
    assert len(grown(levels("KiB of slabs", 0, 2000, 4000, slabs=(5, 6, 7)), 10)) == 1
    assert grown(levels("open files", 5, 5, 5, slabs=(5, 25, 45)), 10) == [], "none by itself"
