"""What goes wrong on the target, in the form that crosses the wire.

The host turns `kind` into its own UsageError, TargetError or LabError, so the
question whose fault it was is answered where it is known: here.
"""

from __future__ import annotations

import errno
from typing import Any

__all__ = ["AgentError", "lab", "target", "usage"]


class AgentError(Exception):
    """`kind` is "usage", "target" or "lab"; the rest as in the host's errors.

    `number` is the errno behind it where there is one: a job that the kernel
    refuses with ECANCELED is a result to some callers.
    """

    def __init__(
        self, kind: str, what: str, where: str = "", cure: str = "", number: int | None = None
    ) -> None:
        self.kind = kind
        self.what = what
        self.where = where
        self.cure = cure
        self.number = number
        super().__init__(what, where, cure)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def wire(self) -> dict[str, Any]:
        """The reply's "error" object."""
        name = errno.errorcode.get(self.number, "") if self.number is not None else ""
        return {
            "kind": self.kind,
            "what": self.what,
            "where": self.where,
            "cure": self.cure,
            "errno": self.number,
            "errname": name,
        }

    @classmethod
    def unwire(cls, error: dict[str, Any]) -> AgentError:
        """The error in a child's reply, to be passed on unchanged."""
        return cls(
            str(error.get("kind", "target")),
            str(error.get("what", "it gave no reason")),
            str(error.get("where", "")),
            str(error.get("cure", "")),
            error.get("errno"),
        )


def usage(what: str, where: str = "", cure: str = "") -> AgentError:
    """The caller's fault."""
    return AgentError("usage", what, where, cure)


def target(what: str, where: str = "", cure: str = "", number: int | None = None) -> AgentError:
    """This machine's fault: it cannot do what was asked."""
    return AgentError("target", what, where, cure, number)


def lab(what: str, where: str = "", cure: str = "") -> AgentError:
    """The lab's fault: the channel, or what was put on this machine."""
    return AgentError("lab", what, where, cure)
