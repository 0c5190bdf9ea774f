"""The chance of each commit as a picture, with its runs below it: an SVG that needs nothing else.

Chances are drawn by their logarithm, so that what is unlikely can be told from what is ruled out;
a long range is drawn twice, whole and around its likeliest commit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import escape

from harness.bisect.bisection import Bisection, tallies
from harness.bisect.search import Answer

__all__ = ["picture"]

_WIDTH, _LEFT, _RIGHT = 1000, 70, 20
# Of one panel: its bars, and all of it.
_TALL, _PANEL = 160, 270
# Powers of ten that are drawn; what is less likely has no bar.
_DECADES = 6
# Commits around the likeliest that a second panel shows, where there are more.
_AROUND = 40
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ROWS = {"bad": 0, "good": 1, "none": 2}
_STYLE = (
    "svg{font:12px system-ui,sans-serif}.bar{fill:#d9730d}.bad{fill:#c92a2a}.good{fill:#2b8a3e}"
    ".none{fill:#8c959f}.axis{stroke:#57606a}.grid{stroke:#d8dee4}.mark{fill:#57606a}"
    "text{fill:#24292f}.number{text-anchor:end}"
)


def picture(bisection: Bisection, answer: Answer) -> str:
    """Oldest at the left."""
    count = len(bisection.setting.history)
    likeliest = int(answer.chances.argmax())
    spans = [(0, count)]
    if count > 2 * _AROUND:
        first = min(max(0, likeliest - _AROUND // 2), count - _AROUND)
        spans.append((first, first + _AROUND))
    height = 30 + _PANEL * len(spans)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" class="posterior"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{_LEFT}" y="20">Chance of each commit to be the first bad one, oldest first '
        "(by its logarithm), and the runs of each</text>"
    ]
    for number, (first, end) in enumerate(spans):
        parts += _panel(bisection, answer, first, end, 30 + _PANEL * number)
    return "".join([*parts, "</svg>\n"])


def _panel(bisection: Bisection, answer: Answer, first: int, end: int, top: int) -> Iterator[str]:
    history = bisection.setting.history
    step = (_WIDTH - _LEFT - _RIGHT) / (end - first)
    wide = max(1.0, step * 0.8)
    base = top + 20 + _TALL

    def middle(one: int) -> float:
        return _LEFT + (one - first + 0.5) * step

    for decade in range(0, _DECADES + 1, 2):
        y = top + 20 + _TALL * decade / _DECADES
        label = f"{100 / 10**decade:g} %"
        look = "axis" if decade == _DECADES else "grid"
        across = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        yield f'<line class="{look}" {across}/>'
        yield f'<text class="number" x="{_LEFT - 8}" y="{y + 4:.1f}">{label}</text>'
    for kind, row in _ROWS.items():
        yield f'<text class="number" x="{_LEFT - 8}" y="{base + 20 + 16 * row}">{kind}</text>'
    for one in range(first, end):
        chance = float(answer.chances[one])
        tall = _TALL * (1 + math.log10(max(chance, 1e-99)) / _DECADES)
        if tall < 0.5:
            continue
        yield (
            f'<rect class="bar" x="{middle(one) - wide / 2:.2f}" y="{base - tall:.2f}" '
            f'width="{wide:.2f}" height="{tall:.2f}">'
            f"<title>{chance:.4%} {_text(history.label(one))}</title></rect>"
        )
    for one, tally in tallies(bisection.attempts):
        if first <= one < end:
            yield from _runs(tally, middle(one), base + 16, history.commits[one].id)
    likeliest = int(answer.chances.argmax())
    side = "end" if middle(likeliest) > _WIDTH / 2 else "start"
    # Beside its bar, above all others.
    x = middle(likeliest) + (wide / 2 + 4) * (-1 if side == "end" else 1)
    said = f"{answer.chances[likeliest]:.2%} {history.label(likeliest)[:60]}"
    yield f'<text x="{x:.1f}" y="{top + 16}" style="text-anchor:{side}">{_text(said)}</text>'
    y = base + 20 + 16 * len(_ROWS) + 4
    yield f'<text x="{_LEFT}" y="{y}">{history.commits[first].id[:12]}</text>'
    yield (
        f'<text class="number" x="{_WIDTH - _RIGHT}" y="{y}">'
        f"{history.commits[end - 1].id[:12]}</text>"
    )


def _runs(tally: dict[str, int], x: float, top: int, commit: str) -> Iterator[str]:
    rows: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for kind, count in tally.items():
        look = kind if kind in _ROWS else "none"
        rows.setdefault(look, []).append(f"{count} {kind}")
        counts[look] = counts.get(look, 0) + count
    for look, said in rows.items():
        radius = min(7.0, 2 + math.sqrt(counts[look]))
        yield (
            f'<circle class="{look}" cx="{x:.2f}" cy="{top + 16 * _ROWS[look]}" '
            f'r="{radius:.1f}"><title>{", ".join(said)}: {commit[:12]}</title></circle>'
        )


def _text(label: str) -> str:
    return escape(_UNWRITABLE.sub("?", label))
