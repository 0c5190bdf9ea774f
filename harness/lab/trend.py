"""How long recovery took, night by night, as a picture: medians, ranges, changes of kernel.

An SVG that stands in a page and takes its colours from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from harness.lab.pages import plain
from harness.lab.weeks import Spread

__all__ = ["render"]

# Pixels.
_WIDTH, _HEIGHT = 720, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 18, 26
# What a person would rule a scale with, in seconds.
_STEPS = (1, 2, 5)


def render(
    spreads: Sequence[Spread | None], kernels: Sequence[str], days: Sequence[str], title: str
) -> str:
    """One point a night, "" where nothing was ever measured.  `kernels` and `days` are those of
    the nights; a dotted line stands where the kernel changes."""
    if not any(spreads):
        return ""
    return "".join(_parts(spreads, kernels, days, title))


def _parts(
    spreads: Sequence[Spread | None], kernels: Sequence[str], days: Sequence[str], title: str
) -> Iterator[str]:
    top = max(spread.high for spread in spreads if spread) * 1.1
    step = _scale(top)
    wide = (_WIDTH - _LEFT - _RIGHT) / max(len(spreads), 1)
    high = _HEIGHT - _TOP - _BOTTOM

    def x(night: int) -> float:
        return _LEFT + (night + 0.5) * wide

    def y(seconds: float) -> float:
        return _TOP + high * (1 - seconds / top)

    yield (
        f'<svg class="trend" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_text(title)}"><title>{_text(title)}</title>'
    )
    for line in range(int(top / step) + 1):
        at = line * step
        yield (
            f'<path class="rule" d="M{_LEFT} {y(at):.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{_seconds(at)}</text>'
        )
    yield from _kernels(kernels, x)
    points = [(x(n), y(s.middle)) for n, s in enumerate(spreads) if s]
    yield f'<path class="line" d="M{" L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>'
    for night, spread in enumerate(spreads):
        if spread is None:
            continue
        told = (
            f"{days[night]}: median {spread.middle:.3f} s, {spread.low:.3f} to {spread.high:.3f} "
            f"of {spread.count}, {kernels[night]}"
        )
        yield (
            f'<g><title>{_text(told)}</title><path class="range" d="M{x(night):.1f} '
            f'{y(spread.low):.1f}V{y(spread.high):.1f}"/>'
            f'<circle cx="{x(night):.1f}" cy="{y(spread.middle):.1f}" r="3"/></g>'
        )
    foot = _HEIGHT - 8
    yield f'<text x="{_LEFT}" y="{foot}">{_text(days[0])}</text>'
    if len(days) > 1:
        end = _WIDTH - _RIGHT
        yield f'<text x="{end}" y="{foot}" text-anchor="end">{_text(days[-1])}</text>'
    yield "</svg>"


def _kernels(kernels: Sequence[str], x: Callable[[int], float]) -> Iterator[str]:
    """A line where the kernel changes, with the new one's name."""
    before = next((kernel for kernel in kernels if kernel), "")
    for night, kernel in enumerate(kernels):
        if kernel and kernel != before:
            at = (x(night) + x(night - 1)) / 2
            yield (
                f'<path class="kernel" d="M{at:.1f} {_TOP - 6}V{_HEIGHT - _BOTTOM}"/>'
                f'<text x="{at + 4:.1f}" y="{_TOP - 4}">{_text(kernel)}</text>'
            )
            before = kernel


def _scale(top: float) -> float:
    """The distance of rules: at most five of them."""
    size = 0.001
    while True:
        for step in _STEPS:
            if top / (step * size) <= 5:
                return step * size
        size *= 10


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:g} ms"


def _text(words: str) -> str:
    return escape(plain(words))
