"""What is asked of pytest by way of `lab`: the words that follow its own options.

pytest looks for its configuration where the first word points that is a path, before it knows
our options, and it runs in the checkout, wherever who asked for it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["names_places", "settled"]

_ROOT = Path(__file__).resolve().parents[2]
# Of the plugin's options (harness/plugin/options.py) those that take a path.
_PATHS = ("--boot", "--inventory", "--known", "--runs")
# Options whose value may be a word of its own: the plugin's, pytest's and pytest-xdist's.
_VALUED = {
    *_PATHS,
    *("--target", "--resume", "--count", "--wait", "--kernel", "--night", "--storm"),
    *("-c", "-k", "-m", "-n", "-o", "-p", "-r", "-W", "--basetemp", "--capture", "--color"),
    *("--confcutdir", "--deselect", "--dist", "--durations", "--ignore", "--ignore-glob"),
    *("--import-mode", "--junit-xml", "--junitxml", "--log-cli-level", "--log-file"),
    *("--log-level", "--maxfail", "--override-ini", "--rootdir", "--tb"),
}


def settled(words: Sequence[str]) -> list[str]:
    """`words`, each path that is an option's value in one word with it, and absolute."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        option, joined, value = word.partition("=")
        if option in _PATHS:
            given = value if joined else next(rest, "")
            found.append(f"{option}={os.path.abspath(given)}" if given else word)
        else:
            found.append(word)
    return found


def names_places(words: Sequence[str]) -> bool:
    """Whether `words` say which tests are to be run: a file, a folder or a test."""
    return any(map(_is_place, _free(words)))


def _free(words: Sequence[str]) -> Iterator[str]:
    """Words that are neither options nor an option's value."""
    before = ""
    for word in words:
        if not word.startswith("-") and before not in _VALUED:
            yield word
        before = word


def _is_place(word: str) -> bool:
    return word.endswith(".py") or "::" in word or (_ROOT / word).exists()
