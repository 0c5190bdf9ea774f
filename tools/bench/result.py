"""What one benchmark found: our number, the others' numbers, and what was wanted.

`ratio` and `met` are computed from the measurement, never given.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

__all__ = ["Result"]


class Result(Struct, frozen=True, kw_only=True):
    """One line of output.  More of `unit` is better."""

    bench: str
    measured: float
    unit: str
    beside: dict[str, float]
    """The same done with what a user would use instead, in the same unit, in the same run."""
    ratio: float | None
    """`measured` over the best of `beside`; None when there is nothing beside it."""
    wanted: float | None
    """The ratio that was asked for; None when the line is for information."""
    met: bool | None
    note: str = ""
    """What `measured` means in other words."""

    @classmethod
    def of(
        cls,
        bench: str,
        measured: float,
        unit: str,
        beside: Mapping[str, float],
        wanted: float | None = None,
    ) -> Result:
        """With `ratio` and `met` from the numbers."""
        best = max(beside.values(), default=0.0)
        ratio = measured / best if best > 0 else None
        return cls(
            bench=bench,
            measured=_rounded(measured),
            unit=unit,
            beside={name: _rounded(value) for name, value in beside.items()},
            ratio=None if ratio is None else _rounded(ratio),
            wanted=wanted,
            met=None if wanted is None or ratio is None else ratio >= wanted,
        )

    def line(self) -> str:
        """As one JSON object."""
        return msgspec.json.encode(self).decode()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
