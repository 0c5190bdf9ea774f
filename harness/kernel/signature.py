"""The identity of a report: a short digest of what does not vary between boots and builds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

__all__ = ["VERSION", "of", "steady"]

VERSION = 2
"""To be raised with every change that gives known reports other signatures: known issues and
histories hold them.  harness/tests/golden.py has a table that tells when one does."""

_VARYING = re.compile(
    r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]\b"  # a PCI address
    r"|\(?\b(?:0x)?[0-9a-f]{6,}\b\)?|\(ptrval\)|\(____ptrval____\)"
    r"|\+0x[0-9a-f]+/0x[0-9a-f]+|\b0x[0-9a-f]+\b|\[#\d+\]|#\d+|-?\b\d+(?:\.\d+)*\b"
)


def of(kind: str, key: Iterable[str]) -> str:
    """Version and 12 hex digits over a kind and its key: functions, lock classes, wording."""
    material = "\0".join((kind, *key))
    return f"{VERSION}-{hashlib.sha256(material.encode()).hexdigest()[:12]}"


def steady(line: str) -> str:
    """`line` less what varies between boots: addresses, offsets, numbers."""
    return " ".join(_VARYING.sub("", line).split())
