"""One line of `lab doctor`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line.  `ok` is None where the test can go on but something will not be seen."""

    ok: bool | None
    what: str
    found: str = ""
    cure: str = ""
