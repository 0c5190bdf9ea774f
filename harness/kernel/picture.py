"""The lock cycle as a picture: a box for each class, and who goes from one to the next.

An SVG that needs nothing else; read from the top, each lock is taken while the one above it is
held, and the last, which is the first again, is taken while the last but one is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from harness.kernel.cycle import Cycle, Turn, boot_primed, path
from harness.kernel.diagnosis import FENCE, driver_of

__all__ = ["render"]

# Pixels.
_WIDTH, _LEFT, _TOP = 1000, 70, 46
_BOX, _GAP, _BEND = 32, 58, 40
_LETTER = 7.9
# Characters.
_LABEL, _WORDS, _TITLE = 100, 120, 140
# Boxes; lockdep follows no chain of more than 48, what has more is not its.
_MOST = 48

_STYLE = """
svg { font: 13px system-ui, sans-serif; }
.class, .path { font-family: ui-monospace, monospace; } .path { font-size: 12px; }
.paper { fill: #fff; } text { fill: #1b1f24; } .dim { fill: #57606a; font-size: 12px; }
.box { fill: #f6f8fa; stroke: #8c959f; } .fence { fill: #fff4e5; stroke: #d9730d; }
.again, .unknown { stroke-dasharray: 5 4; } .edge { fill: none; stroke: #57606a; stroke-width: 2; }
.head { fill: #57606a; } .now { stroke: #c92a2a; } .head.now { fill: #c92a2a; stroke: none; }
text.now { fill: #c92a2a; stroke: none; } .primed { stroke-dasharray: 2 4; }
"""
_DARK = """
.paper { fill: #0d1117; } text { fill: #e6edf3; } .dim { fill: #9198a1; }
.box { fill: #161b22; stroke: #6e7681; } .fence { fill: #33240c; stroke: #e3a04f; }
.edge { stroke: #9198a1; } .head { fill: #9198a1; } .now { stroke: #ff7b72; }
.head.now { fill: #ff7b72; } text.now { fill: #ff7b72; }
"""
# What XML cannot hold even when escaped.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(cycle: Cycle, title: str) -> str:
    """The picture, 1000 pixels wide, as the text of an SVG file; it may also stand in HTML."""
    return "".join(_parts(cycle.starting_with(FENCE), title))


def _parts(cycle: Cycle, title: str) -> Iterator[str]:
    turns = cycle.turns
    cut = len(turns) - _MOST
    if cut > 0:
        turns = turns[:_MOST]
    shown = (*turns, turns[0])
    height = _TOP + len(shown) * (_BOX + _GAP) - _GAP + 26
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" class="lock-cycle">'
        f"<title>{_text(title, _TITLE * 2)}</title>"
        f"<style>{_STYLE}@media (prefers-color-scheme: dark) {{{_DARK}}}</style>"
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>'
        f'<text x="14" y="24">{_text(title, _TITLE)}</text>'
    )
    for nth, turn in enumerate(shown):
        top = _TOP + nth * (_BOX + _GAP)
        if nth:
            yield from _edge(turn, top)
        yield from _box(turn, top, again=nth == len(turns))
    if cut > 0:
        yield f'<text class="dim" x="{_LEFT}" y="{height - 4}">and {cut} more</text>'
    yield from _closing(_TOP + _BOX / 2, _TOP + len(turns) * (_BOX + _GAP) + _BOX / 2)
    yield "</svg>\n"


def _box(turn: Turn, top: float, again: bool) -> Iterator[str]:
    label = turn.lock.label if turn.known else "what lies between is not in the log"
    shown = _text(label, _LABEL)
    width = min(len(label), _LABEL) * _LETTER + 28
    look = " fence" if turn.lock.name == FENCE else ""
    look += " again" if again else ""
    look += "" if turn.known else " unknown"
    yield (
        f'<rect class="box{look}" x="{_LEFT}" y="{top}" width="{width:.0f}" height="{_BOX}" '
        'rx="6"/>'
        f'<text class="class" x="{_LEFT + 14}" y="{top + 21}">{shown}</text>'
    )
    words = "the same again: nobody goes on" if again else ""
    if turn.lock.name == FENCE and not again:
        words = "a section on whose end a fence depends, or a wait for one"
    if words:
        yield f'<text class="dim" x="{_LEFT + width + 12:.0f}" y="{top + 21}">{words}</text>'


def _edge(turn: Turn, top: float) -> Iterator[str]:
    """The arrow down to the box at `top`, and who takes that lock."""
    x, primed = _LEFT + 26, boot_primed(turn.frames)
    look = " now" if turn.now else " primed" if primed else ""
    yield (
        f'<path class="edge{look}" d="M{x} {top - _GAP} V{top - 9}"/>'
        f'<path class="head{look}" d="M{x - 6} {top - 10} h12 l-6 10 z"/>'
    )
    driver = driver_of([turn.frames])
    names = "boot priming" if primed else " > ".join(path(turn.frames))
    if primed:
        how = "told to lockdep at every boot (dma_resv_lockdep)"
    elif turn.interrupt:
        how = "taken by an interrupt"
    else:
        how = "taken while the one above is held" if turn.known else ""
    how += f", in {driver}" if driver and not primed else ""
    how += ": this report" if turn.now else ""
    mark = " now" if turn.now else ""
    yield f'<text class="dim{mark}" x="{x + 18}" y="{top - _GAP + 22}">{_text(how, _WORDS)}</text>'
    yield f'<text class="path" x="{x + 18}" y="{top - _GAP + 41}">{_text(names, _WORDS)}</text>'


def _closing(first: float, last: float) -> Iterator[str]:
    """From the last box, which is the first again, back up to that."""
    x = _LEFT - _BEND
    yield (
        f'<path class="edge" d="M{_LEFT} {last} H{x + 10} Q{x} {last} {x} {last - 10} '
        f'V{first + 10} Q{x} {first} {x + 10} {first} H{_LEFT - 9}"/>'
        f'<path class="head" d="M{_LEFT - 10} {first - 6} v12 l10 -6 z"/>'
    )


def _text(words: str, most: int) -> str:
    shown = words if len(words) <= most else f"{words[: most - 1]}…"
    return escape(_UNWRITABLE.sub("\ufffd", shown))
