"""Tests that a module of the kernel's own runs while it is loaded, read back from the log.

KUnit's suites, the selftests of dma-buf (drivers/dma-buf/selftest.c, as i915's but without a seed)
and of ww_mutex (kernel/locking/test-ww_mutex.c, which tells only how the whole ended).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.kernel import ktap
from harness.kernel.ktap import Outcome
from harness.kernel.records import Record

__all__ = ["Ran", "find"]

_RUNNING = re.compile(r"^dma-buf: Running (?P<suite>\w+)/(?P<subtest>\w+)$")
_FAILED = re.compile(
    r"^dma-buf/(?P<suite>\w+): (?P<subtest>\w+) failed with error (?P<error>-?\d{1,9})$"
)
_BEGIN, _PASSED = "Beginning ww mutex selftests", "All ww mutex selftests passed"
# include/linux/kern_levels.h: KERN_ERR, at which ww_mutex's tests say what is wrong.
_ERROR = 3


@dataclass(frozen=True, slots=True)
class Ran:
    """One test.  `sort`: "KUnit", "dma-buf" or "ww_mutex"; `seq`: the record that tells how it
    ended; `why`: what was said of a failure or a skip."""

    sort: str
    name: str
    outcome: Outcome
    seq: int
    why: str = ""

    @property
    def title(self) -> str:
        """A line about one that failed, by names alone."""
        what = "has no result" if self.outcome == "missing" else "fails"
        return f"{self.sort} test {self.name} {what}".replace("  ", " ")


def find(records: Iterable[Record]) -> list[Ran]:
    """What ran in `records`; of KUnit the innermost tests alone."""
    kernels = [record for record in records if not record.facility]
    return [*_kunit(kernels), *_dma_buf(kernels), *_ww_mutex(kernels)]


def _kunit(records: list[Record]) -> Iterator[Ran]:
    seq = 0

    def lines() -> Iterator[str]:
        nonlocal seq
        for record in records:
            seq = record.seq
            yield from record.lines()

    results = list[tuple[ktap.Subtest, int]]()
    for test in ktap.parse(lines()):
        results.append((test, seq))
    outer = {test.path[:depth] for test, _ in results for depth in range(1, len(test.path))}
    for test, seen in results:
        if test.path not in outer:
            why = test.why or "\n".join(test.said)
            yield Ran("KUnit", test.name, test.outcome, seen, why)


def _dma_buf(records: list[Record]) -> Iterator[Ran]:
    ran: dict[str, Ran] = {}
    for record in records:
        if match := _RUNNING.match(record.text) or _FAILED.match(record.text):
            name = f"{match['suite']}/{match['subtest']}"
            ran[name] = Ran("dma-buf", name, "pass", record.seq)
            if error := match.groupdict().get("error"):
                why = errno.errorcode.get(-int(error), error)
                ran[name] = Ran("dma-buf", name, "fail", record.seq, why)
    yield from ran.values()


def _ww_mutex(records: list[Record]) -> Iterator[Ran]:
    begun: Record | None = None
    said: list[str] = []
    for record in records:
        if record.text == _BEGIN:
            begun, said = record, []
        elif begun is not None and record.text == _PASSED:
            yield Ran("ww_mutex", "", "pass", record.seq)
            begun = None
        elif begun is not None and record.level <= _ERROR:
            said.append(record.text)
    if begun is not None:
        yield Ran("ww_mutex", "", "fail", begun.seq, "\n".join(said))
