"""Texts of trace records as small numbers, each text once.

The number 0 is the empty text.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Strings"]


class Strings:
    """Texts by number; numbers are given in the order in which texts are first met."""

    def __init__(self) -> None:
        self._texts: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}

    def __getitem__(self, number: int) -> str:
        if number < 0:
            raise IndexError(number)
        return self._texts[number]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def id(self, text: str) -> int:
        """The number of `text`; -1 where no record has it."""
        return self._numbers.get(text, -1)

    def intern(self, text: str) -> int:
        """The number of `text`, a new one where there is none yet."""
        number = self._numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number
