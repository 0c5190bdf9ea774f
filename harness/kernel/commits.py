"""Commits that never got done, as DRM's core and atomic helpers say: a picture that stands still.

Facts: drivers/gpu/drm/{drm_atomic.c,drm_atomic_helper.c} of Linux 6.12: each is printed
after ten seconds in which the vblank that would have done it did not come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.kernel.records import Record

__all__ = ["TIMED_OUT", "CommitTimeout", "find"]

TIMED_OUT = r"\b(?:flip_done|hw_done|cleanup_done|commit wait) timed out"
_TIMEOUT = re.compile(TIMED_OUT)


@dataclass(frozen=True, slots=True)
class CommitTimeout:
    """A `step` of a commit, such as flip_done or "commit wait", that did not come."""

    step: str
    seq: int
    text: str


def find(records: Iterable[Record]) -> list[CommitTimeout]:
    """Those in `records`, in order."""
    found = []
    for record in records:
        if not record.facility and (match := _TIMEOUT.search(record.text)):
            step = match[0].removesuffix(" timed out")
            found.append(CommitTimeout(step, record.seq, record.text))
    return found
