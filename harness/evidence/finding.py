"""A finding: one interpreted fact, with the place in the evidence that proves it."""

from __future__ import annotations

import hashlib
from typing import Literal

from msgspec import Struct

__all__ = ["Finding", "Place", "Severity", "signature"]

# fail: the promise was broken.  unknown: evidence is missing, so nothing may be
# called a pass.  note: worth showing.
Severity = Literal["fail", "unknown", "note"]


class Place(Struct, frozen=True):
    """Where in a boot's stream the proof stands, by record sequence number, both inclusive."""

    boot_id: str
    stream: str
    first: int
    last: int


class Finding(Struct, frozen=True):
    """One interpreted fact.  `text` is the evidence itself, bounded; `explanation` is what the
    harness makes of it, where that takes more than the title."""

    kind: str
    severity: Severity
    title: str
    signature: str
    place: Place | None = None
    text: str = ""
    explanation: str = ""


def signature(kind: str, title: str) -> str:
    """The identity of a finding: 12 hex digits over kind and title.

    A title is built from lock classes and functions, never from addresses,
    offsets, times, CPUs or pids, so it survives kernels and nights.
    """
    return hashlib.sha256(f"{kind}\0{title}".encode()).hexdigest()[:12]
