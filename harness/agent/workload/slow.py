"""Jobs that are only slow: as much small work as lasts about as long as is asked for.

Independent of the driver.  How fast a ring is differs by orders of magnitude, so it is tried first.
"""

from __future__ import annotations

from typing import Any, Callable

from ..errors import target

__all__ = ["pieces"]

# Long enough that the way to the ring and back hardly counts, short enough for any timeout.
_ENOUGH_NS = 200_000_000
_FIRST, _STEP = 8, 4


def pieces(run: Callable[[int], dict[str, Any]], seconds: float, most: int) -> tuple[int, int]:
    """How many pieces of work, `most` of all, last about `seconds`; and how long those do, in ns.

    `run` has so many executed and gives what a workload's `wait` does.  Raises AgentError when
    such a job does not end by itself.
    """
    count, each = min(_FIRST, most), float("inf")
    while True:
        # What a busy host adds is no work: the faster of two counts.
        took = min(_trial(run, count), _trial(run, count))
        each = min(each, took / count)
        if took >= _ENOUGH_NS or count == most:
            break
        count = min(_STEP * count, most)
    wanted = max(1, min(most, round(seconds * 1e9 / each)))
    return wanted, round(wanted * each)


def _trial(run: Callable[[int], dict[str, Any]], count: int) -> int:
    told = run(count)
    if not told["signaled"] or told["error"] or told["elapsed_ns"] is None:
        raise target(
            f"a job of {count} small pieces of work did not end well: {told}",
            cure="see the kernel log: the ring may not work at all",
        )
    return int(told["elapsed_ns"])
