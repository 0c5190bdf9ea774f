"""The ledger as data for other programs: CSV of its fences, JSON of all of it.

Times are CLOCK_MONOTONIC of the target in ns, empty or null where an event was not seen.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TextIO

import msgspec

from harness.fence.fences import Fence
from harness.fence.ledger import Ledger

__all__ = ["to_json", "write_csv"]

# What a spreadsheet takes for a formula; names come from the target, where any process has one.
_FORMULA = tuple("=+-@\t\r")


def write_csv(ledger: Ledger, file: TextIO) -> None:
    """A line for each fence, under a line of names.  Open `file` with newline="".

    A name that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    writer = csv.writer(file)
    writer.writerow(Fence._fields)
    for fence in ledger.fences:
        writer.writerow(_safe(fence))


def _safe(fence: Fence) -> Iterable[Any]:
    for value in fence:
        if isinstance(value, bool):
            yield int(value)
        elif isinstance(value, str):
            text = str(value)
            yield f"'{text}" if text.startswith(_FORMULA) else text
        else:
            yield value


def to_json(ledger: Ledger) -> bytes:
    """All of it: {"first", "last", "counts", "fences", "waits", "recoveries", "stalls",
    "interruptions", "losses", "jobs", "comms"}, one line."""
    return msgspec.json.encode(
        {
            "first": ledger.first,
            "last": ledger.last,
            "counts": ledger.counts(),
            "fences": [fence._asdict() for fence in ledger.fences],
            "waits": [wait._asdict() for wait in ledger.waits],
            "stalls": [
                {**stall._asdict(), "wait": stall.wait._asdict()} for stall in ledger.stalls
            ],
            "recoveries": [recovery._asdict() for recovery in ledger.recoveries],
            "interruptions": [call._asdict() for call in ledger.interruptions],
            "losses": [asdict(loss) for loss in ledger.losses],
            "jobs": ledger.jobs,
            "comms": {str(pid): comm for pid, comm in sorted(ledger.comms.items())},
        }
    )
