"""Trace events decoded a second on one core, beside `trace-cmd report` on the very same pages.

The pages are a recording of sim-navi (two sw_sync storms with their ioctls), repeated until they
are enough; trace-cmd has them in a trace.dat that holds nothing else.  It prints text where we
give columns: that is what one would parse instead.  Seconds are of CPU time, so that what else
the machine does is not measured.  Both must find the same number of each event.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.fence.trace import Trace
from harness.tests.traces import sample, tiled
from tools.bench import tracedat
from tools.bench.result import Result

__all__ = ["run"]

_ROUNDS = 7
_TIMES = 25
_UNIT = "events/s"
# The wish, of trace-cmd's rate.
_WANTED = 10.0
# "          <...>-224   [000]    83.314229: sys_enter:            NR 16 ..."
_LINE = re.compile(rb"^.{0,40}? \[\d+\] +\d+\.\d+: +(\w+): ", re.MULTILINE)


def run() -> list[Result]:
    """The best of several rounds, in turns.  Raises UsageError without trace-cmd."""
    program = shutil.which("trace-cmd")
    if program is None:
        raise UsageError(
            "trace-cmd is not installed",
            where="bench decode",
            cure="apt-get install trace-cmd, and run this again",
        )
    with tempfile.TemporaryDirectory(prefix="tdrlab-bench-") as folder:
        path = tiled(sample("storm", Path(folder)), _TIMES)
        data = Path(folder) / "trace.dat"
        tracedat.write(path, data)
        argv = [program, "report", "-i", str(data)]
        ours = _counts(path)
        _compare(ours, _printed(argv))
        events = sum(ours.values())
        mine, theirs = [], []
        for _ in range(_ROUNDS):
            mine.append(events / _decode(path))
            theirs.append(events / _report(argv))
    return [
        Result.of(
            "decode.events",
            max(mine),
            _UNIT,
            {"trace-cmd report": max(theirs)},
            _WANTED,
        )
    ]


def _counts(path: Path) -> Counter[str]:
    trace = Trace.open(path)
    found = trace.read(trace.events)
    counts = {name.split(":")[1]: len(table) for name, table in found.tables.items()}
    return Counter({name: count for name, count in counts.items() if count})


def _printed(argv: list[str]) -> Counter[str]:
    text = subprocess.run(argv, check=True, capture_output=True).stdout
    return Counter(name.decode() for name in _LINE.findall(text))


def _compare(ours: Counter[str], theirs: Counter[str]) -> None:
    if ours != theirs:
        raise LabError(
            f"the two do not agree: {dict(ours)} here, {dict(theirs)} there",
            where="bench decode",
            cure="one of them is wrong; see the record kinds of the sample",
        )


def _decode(path: Path) -> float:
    """Seconds of CPU for everything in it, opened anew."""
    began = time.process_time()
    trace = Trace.open(path)
    trace.read(trace.events)
    return time.process_time() - began


def _report(argv: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
