"""What every test did on every target, night by night, as one array: the matrix and its strips.

Read from the history a night at a time, so that a large lab's weeks fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.lab.past import Night, Result

__all__ = ["STATES", "Grid", "State", "rule"]


@dataclass(frozen=True, slots=True)
class State:
    """How a test ended, as it is shown: by a letter and a height, so that nobody needs to tell
    colours apart.  `height` is of the strip's, in percent; `colour` a variable of site.css."""

    name: str
    letter: str
    height: int
    colour: str


# By gravity: of several attempts in one night the last in this order counts.
STATES: tuple[State, ...] = (
    State("missing", "", 0, ""),
    State("pass", "·", 25, "--pass"),
    State("skip", "s", 12, "--skip"),
    State("xfail", "x", 50, "--known"),
    State("blind", "B", 70, "--lab"),
    State("error", "E", 70, "--lab"),
    State("incomplete", "I", 100, "--fail"),
    State("fail", "F", 100, "--fail"),
)
_CODES = {state.name: code for code, state in enumerate(STATES)}
PASS, FAIL = _CODES["pass"], _CODES["fail"]


@dataclass(slots=True)
class Grid:
    """`codes` of STATES by test, target and night; nights from the oldest to the newest."""

    nights: list[Night]
    tests: list[str]
    targets: list[str]
    codes: NDArray[np.uint8]
    _tests: dict[str, int] = field(default_factory=dict)
    _targets: dict[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, nights: Sequence[Night]) -> Grid:
        """Without any result yet; `nights` from the oldest to the newest."""
        return cls(list(nights), [], [], np.zeros((0, 0, len(nights)), np.uint8))

    def add(self, night: int, results: Sequence[Result]) -> None:
        """Add the results of the night at this place."""
        for result in results:
            self._index(self._tests, self.tests, result.test)
            self._index(self._targets, self.targets, result.target)
        self._grow()
        for result in results:
            row, column = self._tests[result.test], self._targets[result.target]
            code = _CODES[result.outcome]
            self.codes[row, column, night] = max(self.codes[row, column, night], code)

    def sort(self) -> None:
        """Tests and targets by name."""
        rows = sorted(range(len(self.tests)), key=self.tests.__getitem__)
        columns = sorted(range(len(self.targets)), key=self.targets.__getitem__)
        self.codes = self.codes[np.ix_(rows, columns, range(len(self.nights)))]
        self.tests, self.targets = sorted(self.tests), sorted(self.targets)
        self._tests = {name: row for row, name in enumerate(self.tests)}
        self._targets = {name: column for column, name in enumerate(self.targets)}

    def strip(self, test: str, target: str) -> bytes:
        """The codes of one test on one target, a byte each night."""
        if test not in self._tests or target not in self._targets:
            return bytes(len(self.nights))
        return bytes(self.codes[self._tests[test], self._targets[target]])

    def last(self, test: str, target: str) -> State:
        """How it ended in the newest night."""
        strip = self.strip(test, target)
        return STATES[strip[-1]] if strip else STATES[0]

    def ever(self, target: str, test: str) -> bool:
        """Whether the test was ever seen on the target."""
        return any(self.strip(test, target))

    def quiet(self, test: str) -> bool:
        """Whether all it ever did was to pass, and wherever it ran before, it ran last night."""
        rows = self.codes[self._tests[test]]
        ran = rows[rows.any(axis=1)]
        return bool(np.isin(ran, (0, PASS)).all() and (ran[:, -1] == PASS).all())

    def calm(self, test: str, target: str) -> bool:
        """The same of one test on one target."""
        codes = self.codes[self._tests[test], self._targets[target]]
        return bool(np.isin(codes, (0, PASS)).all() and codes[-1] == PASS)

    def of_target(self, target: str) -> dict[str, list[int]]:
        """How many of its tests ended how, by state, a number for each night."""
        codes = self.codes[:, self._targets[target], :]
        return {
            state.name: (codes == code).sum(axis=0).tolist()
            for code, state in enumerate(STATES)
            if code
        }

    def newest(self) -> dict[str, int]:
        """How many tests ended how in the newest night, by state, those there are, worst first."""
        if not self.codes.size:
            return {}
        counts = np.bincount(self.codes[:, :, -1].ravel(), minlength=len(STATES))
        found = {state.name: int(counts[code]) for code, state in enumerate(STATES) if code}
        return {name: found[name] for name in reversed(found) if found[name]}

    def _index(self, places: dict[str, int], names: list[str], name: str) -> None:
        if name not in places:
            places[name] = len(names)
            names.append(name)

    def _grow(self) -> None:
        rows, columns, _ = self.codes.shape
        more = ((0, len(self.tests) - rows), (0, len(self.targets) - columns), (0, 0))
        if any(after for _, after in more):
            self.codes = np.pad(self.codes, more)


def rule(strip: bytes, width: int) -> str:
    """The CSS that draws a strip, `width` pixels a night: for each state a layer of its height.

    A stop at 0 begins where the one before it ended (CSS Images 3, 3.4.3).
    """
    layers = []
    sizes = []
    for code in sorted(set(strip) - {0}, reverse=True):
        state = STATES[code]
        stops = []
        for begin, end in _spans(strip, code):
            left, right = begin * width, end * width
            ink = f"var({state.colour})"
            stops.append(f"#0000 0 {left}px,{ink} 0 {right}px" if left else f"{ink} {right}px")
        layers.append(f"linear-gradient(90deg,{','.join(stops)},#0000 0)")
        sizes.append(f"100% {state.height}%")
    if not layers:
        return ""
    return f"background-image:{','.join(layers)};background-size:{','.join(sizes)}"


def _spans(strip: bytes, code: int) -> list[tuple[int, int]]:
    """Where `code` stands in the strip, as stretches."""
    spans: list[tuple[int, int]] = []
    for place, found in enumerate(strip):
        if found != code:
            continue
        if spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
    return spans
