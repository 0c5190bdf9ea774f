"""The ledger as a picture: lanes for each ring and waiter, the hang, the reset, who waited.

An SVG that needs nothing else, of bounded size however many fences there are: each lane is as
many columns as it has pixels, and shows in each the gravest of what was pending there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from harness.fence.fences import STATES, State
from harness.fence.lanes import FenceLane, WaitLane, fence_lanes, wait_lanes
from harness.fence.ledger import Ledger
from harness.fence.recoveries import Recovery
from harness.fence.waits import Wait

__all__ = ["render"]

# Pixels.
_WIDTH, _LEFT, _RIGHT = 1000, 190, 14
_COLUMNS = _WIDTH - _LEFT - _RIGHT
_LANE, _BAR = 20, 12
# Above the lanes; with marks for jobs and resets.
_BARE, _MARKED = 34, 54
_FENCE_LANES, _WAIT_LANES, _MARKS = 24, 12, 60
_NAME = 27
_LABEL = 160
_TICKS = 8

# The gravest last: it is drawn over the others.
_GRAVITY = (
    State.IN_TIME,
    State.IN_RECOVERY,
    State.FORCED,
    State.LATE,
    State.UNKNOWN,
    State.PENDING,
    State.FREED,
)
_WELL = STATES.index(State.IN_TIME)
_CLASS = {state: state.name.lower().replace("_", "-") for state in State}
# Light, dark.  Told apart by lightness too, for those who do not see all colours.
_COLOURS = {
    State.IN_TIME: ("#6cb2eb", "#3b78b5"),
    State.IN_RECOVERY: ("#b197fc", "#8f74d8"),
    State.FORCED: ("#f08c00", "#f0a030"),
    State.LATE: ("#e8590c", "#ff7b3d"),
    State.UNKNOWN: ("#868e96", "#9aa4ad"),
    State.PENDING: ("#c92a2a", "#ff6b6b"),
    State.FREED: ("#862e9c", "#e599f7"),
}
_STYLE = """
svg { font: 11px system-ui, sans-serif; }
.paper { fill: #fff; } text { fill: #1b1f24; } .dim { fill: #57606a; }
.line { stroke: #d8dee4; } .reset { fill: #f08c00; opacity: .35; } .lost { fill: url(#hatch); }
.hatch { stroke: #868e96; } .mark { fill: #c92a2a; } .job { fill: #57606a; }
.slept { fill: #2b8a3e; } .deaf { fill: #1864ab; } .error { fill: #c92a2a; }
"""
_DARK = """
.paper { fill: #0d1117; } text { fill: #e6edf3; } .dim { fill: #9198a1; }
.line { stroke: #30363d; } .hatch { stroke: #9aa4ad; } .mark { fill: #ff6b6b; }
.job { fill: #9198a1; } .slept { fill: #4ac26b; } .deaf { fill: #6cb6ff; } .error { fill: #ff6b6b; }
"""
# What XML cannot hold even when escaped.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Ints = NDArray[np.int64]


def render(ledger: Ledger, title: str = "fences") -> str:
    """The picture, 1000 pixels wide, as the text of an SVG file; it may also stand in HTML."""
    return "".join(_Picture(ledger, title).parts())


class _Picture:
    def __init__(self, ledger: Ledger, title: str) -> None:
        self._ledger = ledger
        self._title = title
        self._span = max(ledger.last - ledger.first, 1)
        lanes = fence_lanes(ledger)
        # Of too many, those are left out in which all went well.
        well = [bool((ledger.fences.state[lane.rows] == _WELL).all()) for lane in lanes]
        kept = {*sorted(range(len(lanes)), key=well.__getitem__)[:_FENCE_LANES]}
        self._lanes = [lane for nth, lane in enumerate(lanes) if nth in kept]
        self._more_lanes = [lane for nth, lane in enumerate(lanes) if nth not in kept]
        waiters = wait_lanes(ledger)
        self._more_waiters = len(waiters[_WAIT_LANES:])
        self._waiters = waiters[:_WAIT_LANES]
        self._top = _MARKED if ledger.jobs or ledger.recoveries else _BARE
        rows = len(self._lanes) + len(self._waiters)
        rows += bool(self._more_lanes) + bool(self._waiters) + bool(self._more_waiters)
        self._floor = self._top + rows * _LANE + 6
        self._places = list(_placed(self._entries()))
        self._height = (
            self._floor + 30 + 16 * (1 + max((row for *_, row in self._places), default=0))
        )

    def parts(self) -> Iterator[str]:
        """From back to front."""
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self._height}" '
            f'width="{_WIDTH}" height="{self._height}" role="img" class="fences">'
            f"<title>{_text(self._title)}</title><style>{_style()}</style>"
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6" stroke-width="2"/>'
            "</pattern></defs>"
            f'<rect class="paper" width="{_WIDTH}" height="{self._height}"/>'
        )
        yield self._words(8, 16, self._title, "", 110)
        yield from self._axis()
        yield from self._recoveries()
        top = self._top
        for lane in self._lanes:
            yield from self._lane(lane, top)
            top += _LANE
        if self._more_lanes:
            fences = sum(len(lane.rows) for lane in self._more_lanes)
            words = f"{len(self._more_lanes)} more, {fences} fences"
            yield self._words(8, top + 14, words, "dim", 60)
            top += _LANE
        if self._waiters:
            yield self._words(8, top + 14, "who waited", "dim")
            top += _LANE
        for waiter in self._waiters:
            yield from self._waits(waiter, top)
            top += _LANE
        if self._more_waiters:
            yield self._words(8, top + 14, f"and {self._more_waiters} more waiters", "dim")
        yield from self._losses()
        yield from self._jobs()
        yield from self._legend()
        yield "</svg>\n"

    # -- what lies behind the lanes ----------------------------------------------

    def _axis(self) -> Iterator[str]:
        step = _round_up(self._span / _TICKS)
        for nth in range(int(self._span / step) + 1):
            x = _LEFT + nth * step / self._span * _COLUMNS
            yield f'<path class="line" d="M{x:.1f} {self._top - 8}V{self._floor}"/>'
            anchor = "end" if x > _WIDTH - 40 else "middle"
            seconds = f"{nth * step / 1e9:g} s"
            yield (
                f'<text class="dim" x="{x:.1f}" y="{self._floor + 14}" '
                f'text-anchor="{anchor}">{seconds}</text>'
            )

    def _recoveries(self) -> Iterator[str]:
        runs, height = self._ledger.recoveries, self._floor - self._top + 8
        if len(runs) > _MARKS:
            begins = np.array([run.begin for run in runs], np.int64)
            ends = np.array([self._end(run) for run in runs], np.int64)
            for first, last, number in self._runs(self._columns(begins, ends)):
                words = f"reset: up to {number} at once"
                yield self._rect(
                    "reset",
                    _LEFT + first,
                    self._top - 8,
                    last - first,
                    self._floor - self._top + 8,
                    words,
                )
            return
        for run in runs:
            end = self._end(run)
            lasted = "never ended" if run.end is None else f"{(end - run.begin) / 1e6:.1f} ms"
            who = self._ledger.comms.get(run.pid, "")
            words = f"reset at {self._at(run.begin)} on {who} [{run.pid}]: {lasted}"
            x, width = self._stretch(run.begin, end, 3.0)
            yield self._rect("reset", x, self._top - 8, width, height, words)

    def _end(self, run: Recovery) -> int:
        return self._ledger.last if run.end is None else run.end

    def _losses(self) -> Iterator[str]:
        begins = np.array([loss.after_ns for loss in self._ledger.losses], np.int64)
        ends = np.array([loss.before_ns for loss in self._ledger.losses], np.int64)
        height = self._floor - self._top + 8
        for begin, end, _ in self._runs(self._columns(begins, ends)):
            x, width = _LEFT + begin, end - begin
            yield self._rect("lost", x, self._top - 8, width, height, "events were lost here")

    def _jobs(self) -> Iterator[str]:
        hangs = [job for job in self._ledger.jobs if job.kind == "hang"]
        others = [job for job in self._ledger.jobs if job.kind != "hang"]
        taken: set[tuple[bool, int]] = set()
        for job in (*others, *hangs):
            x = _LEFT + self._x(job.submitted_ns)
            # No two of a kind where one would hide the other.
            place = (job.kind == "hang", round(x / 4))
            if place in taken:
                continue
            taken.add(place)
            name = f"{job.kind or 'job'} on {job.engine} at {self._at(job.submitted_ns)}"
            kind = "mark" if job.kind == "hang" else "job"
            yield (
                f'<path class="{kind}" d="M{x:.1f} {self._top - 8}l-4 -7h8z">'
                f"<title>{_text(name)}</title></path>"
            )
        for job in hangs[:1]:
            x = round(_LEFT + self._x(job.submitted_ns))
            end = ' text-anchor="end"' if x > _WIDTH - _LABEL else ""
            words = _text(f"hang on {job.engine[:20]}")
            yield f'<text class="mark" x="{x}" y="{self._top - 19}"{end}>{words}</text>'

    # -- lanes ---------------------------------------------------------------------

    def _lane(self, lane: FenceLane, top: int) -> Iterator[str]:
        label = f"{lane.name}: {len(lane.rows)} fences"
        yield self._words(8, top + 14, lane.name, "", _NAME, label)
        yield f'<path class="line" d="M{_LEFT} {top + _LANE - 1}H{_WIDTH - _RIGHT}"/>'
        states = self._ledger.fences.state[lane.rows]
        for state in _GRAVITY:
            mine = states == STATES.index(state)
            if not mine.any():
                continue
            begin, end = lane.begin[mine], lane.end[mine]
            # What ended well is quiet, so that what did not stands out.
            inset = 3 if state is State.IN_TIME else 0
            names = self._names(lane, mine) if int(mine.sum()) <= _MARKS else None
            for first, last, number in self._runs(self._columns(begin, end)):
                words = f"{state}: up to {number} at once"
                if names is not None:
                    words = self._who(names, begin, end, first, last, state)
                yield self._rect(
                    _CLASS[state],
                    _LEFT + first,
                    top + 3 + inset,
                    last - first,
                    _BAR - 2 * inset,
                    words,
                )

    def _names(self, lane: FenceLane, mine: NDArray[np.bool_]) -> list[str]:
        rows = [self._ledger.fences[row] for row in lane.rows[mine].tolist()]
        return [
            f"{fence.context}:{fence.seqno}" + (f", error {fence.error}" if fence.error else "")
            for fence in rows
        ]

    def _who(
        self, names: Sequence[str], begin: Ints, end: Ints, first: int, last: int, state: State
    ) -> str:
        """Which fences a bar stands for."""
        columns = [(self._x(int(b)), self._x(int(e))) for b, e in zip(begin, end, strict=True)]
        inside = [
            f"{name} from {self._at(int(b))} for {(e - b) / 1e6:.3f} ms"
            for name, b, e, (left, right) in zip(names, begin, end, columns, strict=True)
            if left < last and right >= first
        ]
        return f"{state}: " + "; ".join(inside[:4]) + (" …" if len(inside) > 4 else "")

    def _waits(self, waiter: WaitLane, top: int) -> Iterator[str]:
        label = f"{waiter.name}: {len(waiter.waits)} waits"
        yield self._words(8, top + 14, waiter.name, "", _NAME, label)
        yield f'<path class="line" d="M{_LEFT} {top + _LANE - 1}H{_WIDTH - _RIGHT}"/>'
        last = self._ledger.last
        for kind in ("slept", "deaf", "error"):
            mine = [wait for wait in waiter.waits if _how(wait) == kind]
            begin = np.array([wait.begin for wait in mine], np.int64)
            end = np.array([last if wait.end is None else wait.end for wait in mine], np.int64)
            for first, until, _ in self._runs(self._columns(begin, end)):
                here = [w for w in mine if self._x(w.begin) < until]
                wait = max(here, key=lambda w: w.begin, default=mine[-1])
                how = {True: "interruptible", False: "uninterruptible", None: "a"}
                ended = "never ended" if wait.end is None else f"result {wait.result}"
                length = (last if wait.end is None else wait.end) - wait.begin
                words = (
                    f"{how[wait.interruptible]} wait for {wait.driver} {wait.timeline} "
                    f"{wait.context}:{wait.seqno}: {length / 1e6:.3f} ms, {ended}"
                )
                yield self._rect(kind, _LEFT + first, top + 5, until - first, 8, words)

    def _entries(self) -> list[tuple[str, str]]:
        """Of the legend: class and words of what the picture shows."""
        counts: dict[str, int] = {}
        for states in self._ledger.counts().values():
            for name, number in states.items():
                counts[name] = counts.get(name, 0) + number
        entries = [(_CLASS[s], f"{counts[s]} {s}") for s in _GRAVITY if counts.get(s)]
        if self._ledger.recoveries:
            entries.append(("reset", _some(len(self._ledger.recoveries), "reset")))
        if self._waiters:
            names = {
                "slept": "wait",
                "deaf": "uninterruptible wait",
                "error": "failed wait",
            }
            present = {_how(wait) for wait in self._ledger.waits}
            entries += [(kind, names[kind]) for kind in names if kind in present]
        if self._ledger.losses:
            entries.append(("lost", "events lost"))
        return entries

    def _legend(self) -> Iterator[str]:
        for kind, words, x, row in self._places:
            y = self._floor + 26 + 16 * row
            yield f'<rect class="{kind}" x="{x}" y="{y}" width="12" height="10"/>'
            yield self._words(x + 16, y + 9, words, "dim", 40)

    # -- drawing -------------------------------------------------------------------

    def _x(self, time: int) -> float:
        """Pixels from the lanes' left edge."""
        return min(max((time - self._ledger.first) / self._span, 0.0), 1.0) * _COLUMNS

    def _at(self, time: int) -> str:
        return f"{(time - self._ledger.first) / 1e9:.6f} s"

    def _stretch(self, begin: int, end: int, least: float) -> tuple[float, float]:
        left, right = self._x(begin), self._x(end)
        return _LEFT + left, max(right - left, least)

    def _columns(self, begin: Ints, end: Ints) -> Ints:
        """How many of the spans [begin, end] touch each column."""
        scale = _COLUMNS / self._span
        first, last = (
            np.clip((np.asarray(edge) - self._ledger.first) * scale, 0, _COLUMNS - 1).astype(int)
            for edge in (begin, end)
        )
        change = np.zeros(_COLUMNS + 1, np.int64)
        np.add.at(change, first, 1)
        np.add.at(change, last + 1, -1)
        return np.cumsum(change[:-1])

    @staticmethod
    def _runs(columns: Ints) -> Iterator[tuple[int, int, int]]:
        """Stretches of columns that something touches: first, behind the last, most at once."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], columns > 0, [0]))))
        for first, last in edges.reshape(-1, 2).tolist():
            yield first, last, int(columns[first:last].max())

    @staticmethod
    def _rect(kind: str, x: float, y: float, width: float, height: float, words: str) -> str:
        return (
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}">'
            f"<title>{_text(words)}</title></rect>"
        )

    @staticmethod
    def _words(x: int, y: int, words: str, kind: str, most: int = 80, more: str = "") -> str:
        short = words if len(words) <= most else words[: most - 1] + "…"
        title = f"<title>{_text(more)}</title>" if more else ""
        return f'<text class="{kind}" x="{x}" y="{y}">{_text(short)}{title}</text>'


def _placed(entries: list[tuple[str, str]]) -> Iterator[tuple[str, str, int, int]]:
    """With the place of each: pixels from the left, and the row."""
    x, row = 8, 0
    for kind, words in entries:
        width = 28 + round(6.2 * len(words))
        if x + width > _WIDTH:
            x, row = 8, row + 1
        yield kind, words, x, row
        x += width


def _how(wait: Wait) -> str:
    """A wait's class."""
    if wait.end is None or (wait.result is not None and wait.result < 0):
        return "error"
    return "deaf" if wait.interruptible is False else "slept"


def _style() -> str:
    light = "".join(f".{_CLASS[s]} {{ fill: {_COLOURS[s][0]}; }}\n" for s in _GRAVITY)
    dark = "".join(f".{_CLASS[s]} {{ fill: {_COLOURS[s][1]}; }}\n" for s in _GRAVITY)
    rules = f"{_STYLE}{light}@media (prefers-color-scheme: dark) {{{_DARK}{dark}}}\n"
    # In a page its rules are to touch nothing but the picture.
    return re.sub(r"(?m)(^|(?<=[;{}] )|(?<=\}))(?=\.|text)", ".fences ", rules).replace(
        "svg {", ".fences {"
    )


def _text(text: str) -> str:
    return escape(_UNWRITABLE.sub("\ufffd", text[:400]))


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _round_up(ns: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(ns))
    return float(next(power * step for step in (1, 2, 5, 10) if power * step >= ns * 0.999))
