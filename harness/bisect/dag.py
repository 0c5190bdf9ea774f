"""The commits between good and bad, and who descends from whom.

The regression model on a DAG: of one culprit, it and all its descendants are bad, every other
commit is good.  Pure: nothing here knows git or a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dag", "Floats"]

Floats = NDArray[np.float64]

# Up to so many commits the matrix of ancestors is kept as floats (64 MiB); beyond it, as bits.
_DENSE = 4096
_BLOCK = 512


class Dag:
    """Commits 0..n-1, parents before children.  Immutable."""

    def __init__(self, parents: Sequence[Sequence[int]]) -> None:
        """`parents` of each, as indices; those outside of the range are left out."""
        self.parents = tuple(tuple(mine) for mine in parents)
        for child, mine in enumerate(self.parents):
            if any(not 0 <= parent < child for parent in mine):
                raise ValueError(f"commit {child} comes before a parent of its own: {mine}")
        self.linear = all(
            mine == ((child - 1,) if child else ()) for child, mine in enumerate(self.parents)
        )

    @classmethod
    def line(cls, count: int) -> Dag:
        """`count` commits without a merge."""
        return cls([[child - 1] if child else [] for child in range(count)])

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each commit the set of itself and its ancestors, as bits of an int."""
        found: list[int] = []
        for child, mine in enumerate(self.parents):
            bits = 1 << child
            for parent in mine:
                bits |= found[parent]
            found.append(bits)
        return tuple(found)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each commit the set of itself and its descendants, as bits of an int."""
        found = [1 << commit for commit in range(len(self))]
        for child in reversed(range(len(self))):
            for parent in self.parents[child]:
                found[parent] |= found[child]
        return tuple(found)

    def rows(self, commits: Sequence[int] | NDArray[np.intp]) -> NDArray[np.bool_]:
        """For each of `commits`, by candidate: would it be bad if that were the culprit?"""
        if self.linear:
            return np.arange(len(self)) <= np.asarray(commits)[:, np.newaxis]
        return self._unpack(self._bits[np.asarray(commits)]).astype(bool)

    def sums(self, values: Floats) -> Floats:
        """For each commit, the sum of `values` (last axis) over it and its ancestors."""
        if self.linear:
            return np.cumsum(values, axis=-1)
        flat = values.reshape(-1, len(self)).astype(np.float32)
        if len(self) <= _DENSE:
            out = flat @ self._dense
        else:
            out = np.empty_like(flat)
            for first in range(0, len(self), _BLOCK):
                block = self._unpack(self._bits[first : first + _BLOCK]).astype(np.float32)
                out[:, first : first + _BLOCK] = flat @ block.T
        return out.astype(np.float64).reshape(values.shape)

    def classes(self, barren: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Candidates that only runs at `barren` commits could tell apart have the same label."""
        if self.linear:
            return np.concatenate([[0], np.cumsum(~barren)[:-1]])
        mask = sum(1 << int(commit) for commit in np.flatnonzero(~barren))
        labels: dict[int, int] = {}
        found = [labels.setdefault(bits & mask, len(labels)) for bits in self.descendants]
        return np.array(found, dtype=np.intp)

    def near(self, commit: int, reach: int) -> dict[int, int]:
        """Commits within `reach` steps along parents or children, with their distance."""
        found = {commit: 0}
        edge = [commit]
        for distance in range(1, reach + 1):
            edge = [
                other
                for one in edge
                for other in (*self.parents[one], *self._children[one])
                if found.setdefault(other, distance) == distance
            ]
        return found

    @cached_property
    def _children(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.parents]
        for child, mine in enumerate(self.parents):
            for parent in mine:
                found[parent].append(child)
        return tuple(map(tuple, found))

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        """The ancestors of each commit, packed, lowest first."""
        width = (len(self) + 7) // 8
        raw = b"".join(bits.to_bytes(width, "little") for bits in self.ancestors)
        return np.frombuffer(raw, dtype=np.uint8).reshape(len(self), width)

    @cached_property
    def _dense(self) -> NDArray[np.float32]:
        """By candidate and commit: 1 where that commit has the candidate."""
        return np.ascontiguousarray(self._unpack(self._bits).T.astype(np.float32))

    def _unpack(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.unpackbits(packed, axis=-1, count=len(self), bitorder="little")
