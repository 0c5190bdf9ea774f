"""The search of a site without a server: a list that the browser goes through."""

from __future__ import annotations

import json

from harness.lab.pages import plain

__all__ = ["Index"]


class Index:
    """What can be found: sort, text, page."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, str, str]] = []

    def add(self, sort: str, text: str, page: str) -> None:
        """One page, found by words of `text`."""
        self._entries.append((sort, plain(text), page))

    def script(self) -> str:
        """A script, since a page that was opened from a file may not fetch one."""
        lines = ",\n".join(json.dumps(entry) for entry in self._entries)
        return f"window.LAB_INDEX = [\n{lines}\n];\n"
