"""The loads of a module that run its selftests: a failing group ends one, the others get another.

Which parameters that takes, and what the log says of it, harness/kernel/selftests.py knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.kernel import selftests
from harness.kernel.records import Record
from harness.kernel.selftests import Group, Run
from harness.live.module import Module

__all__ = ["loads"]


def loads(
    module: Module,
    chosen: Sequence[Group],
    without: Iterable[str],
    seconds: float,
    log: Callable[[], Iterable[Record]],
) -> Iterator[tuple[str, list[Run]]]:
    """Load `module`, each time for up to `seconds`, until each of the groups, all of one kind,
    ran: of each load what the module says of its end, and what ran, by the kernel's `log`.

    Ends after a load in which nothing ran.  Raises as Module.load does.
    """
    left, without = list(chosen), tuple(without)
    before = len(selftests.find(log()))
    while left:
        module.load(selftests.arguments(left, without), seconds)
        ended = module.value(selftests.result(left[0].kind))
        module.unload()
        ran = selftests.find(log())[before:]
        before += len(ran)
        yield ended, ran
        if not ran:
            return
        done = {run.group for run in ran}
        left = [group for group in left if group.name not in done]
