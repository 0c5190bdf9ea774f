"""How far a target's run is, from its run directory, read as it grows.

What a live table and plain lines show; judges nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

__all__ = ["Progress"]


@dataclass
class Progress:
    """One run.  `now` is the test that is running, "" between two; `counts` by outcome; `trouble`
    why the target could not be reached, or not be brought back, ""."""

    journal: Path
    now: str = ""
    trouble: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    _offset: int = 0

    def advance(self) -> list[tuple[str, str]]:
        """Read what is new; the tests that ended since, with their outcomes."""
        try:
            with self.journal.open("rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return []
        ended = []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                entry = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            match entry.get("what"):
                case "test-start":
                    self.now = str(entry["test"])
                case "test-end":
                    self.now = ""
                    self.counts[str(entry["outcome"])] += 1
                    ended.append((str(entry["test"]), str(entry["outcome"])))
                case "run-start" | "boot":
                    self.trouble = ""
                case "connect-failed":
                    self.trouble = str(entry["error"]).split("\n")[0]
                case "unfit":
                    self.trouble = str(entry["reason"])
        return ended

    def told(self) -> str:
        """In words: 3 pass, 1 fail."""
        return ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
