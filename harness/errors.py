"""The one tree of errors, cut by whose fault it is.

Every message says what was tried, where, and what to do next; the three
parts are separate arguments so that none is forgotten.  A failure of the
kernel under test is never an exception: it is a finding.
"""

from __future__ import annotations

from typing import Any

__all__ = ["HarnessError", "LabError", "TargetError", "UsageError"]


class HarnessError(Exception):
    """Base of all errors the harness raises on purpose.

    `what` was tried and how it failed, `where` (target, file and line, device),
    `cure` is the next thing to do.
    """

    exit_status = 3
    fault = "error"

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what = what
        self.where = where
        self.cure = cure
        super().__init__(what, where, cure)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: __init__ takes keywords, which BaseException does not know."""
        return _again, (type(self), self.what, self.where, self.cure)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  cure: {self.cure}" if self.cure else head


def _again(kind: type[HarnessError], what: str, where: str, cure: str) -> HarnessError:
    return kind(what, where=where, cure=cure)


class UsageError(HarnessError):
    """The caller's or the configuration's fault; trying again changes nothing."""

    exit_status = 2
    fault = "usage error"


class LabError(HarnessError):
    """The lab's fault: a link, power, the network, this host's disk."""

    exit_status = 3
    fault = "lab error"


class TargetError(HarnessError):
    """The machine's fault: it is there, but cannot do what was asked."""

    exit_status = 4
    fault = "target error"
