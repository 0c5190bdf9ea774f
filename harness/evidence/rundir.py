"""The run directory: where each stream, fact and verdict of a run lies.

Names and paths only; files.py writes, journal.py remembers the order.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from harness.errors import UsageError
from harness.evidence import journal
from harness.evidence.files import disk_error, read_json, reserve, write_json
from harness.evidence.journal import Journal

__all__ = ["RunDir", "Window", "attempt_of", "slug"]


class Window(Struct, kw_only=True):
    """What one test could have caused: a stretch of one boot's kernel log, and the states around.

    `first_seq` and `last_seq` are kmsg sequence numbers, inclusive; `offset` is
    where `first_seq` begins in the boot's `kmsg` file, in bytes; `mono` is when it
    opened, CLOCK_MONOTONIC of the target in ns.  `body` is what the test itself
    said: passed, failed, skipped, or error (the lab's).
    """

    test: str
    boot_id: str
    first_seq: int
    offset: int
    mono: int = 0
    last_seq: int | None = None
    health_before: dict[str, Any] = {}
    health_after: dict[str, Any] = {}
    destructive: bool = False
    body: str = ""
    body_text: str = ""
    # Why the window could not be closed properly: the target died, the link broke.
    died: str = ""
    lab_error: str = ""
    # What of the lab's own broke under the target: whatever the kernel did then proves nothing.
    trouble: str = ""
    # What else of the lab's own a judge should know: a modelled GPU that stood still.
    remarks: list[str] = []
    seconds: float = 0.0
    # The same stretch in the trace, as CLOCK_MONOTONIC ns of the two marks (None: not traced; the
    # end also while the window is open), and in which folder of the boot's it lies; `trace` is
    # why it cannot be relied upon (it is off, absent, cut, behind), or "".
    trace_first: int | None = None
    trace_last: int | None = None
    trace_dir: str = "trace"
    trace: str = ""


class RunDir:
    """One run against one target."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "journal.jsonl")

    @classmethod
    def create(cls, root: Path, target: str) -> RunDir:
        """A new directory under `root`, named by UTC time, target and a short id."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = root / f"{now}-{target}-{secrets.token_hex(3)}"
        try:
            (path / "tests").mkdir(parents=True)
        except OSError as error:
            raise disk_error(path, error) from error
        reserve(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run.  Raises UsageError where `path` is none."""
        if not (path / "journal.jsonl").exists():
            raise UsageError(
                "not a run directory: it has no journal.jsonl",
                where=str(path),
                cure="give a directory under runs/",
            )
        return cls(path)

    def update(self, **facts: Any) -> None:
        """Merge `facts` into run.json."""
        path = self.path / "run.json"
        known = read_json(path) if path.exists() else {}
        write_json(path, {**known, **facts})

    def facts(self) -> dict[str, Any]:
        """run.json, or {} where the run died before it was written."""
        path = self.path / "run.json"
        return dict(read_json(path)) if path.exists() else {}

    def boot(self, boot_id: str) -> Path:
        """The directory of one boot's streams."""
        path = self.path / f"boot-{boot_id}"
        self._make(path)
        return path

    def pending_boot(self) -> Path:
        """A directory for a boot that has no boot_id yet; `name_boot` gives it its name."""
        for number in itertools.count(len(list(self.path.glob("boot-*")))):
            path = self.path / f"boot-pending-{number}"
            try:
                path.mkdir()
            except FileExistsError:  # two of them may be on their way at once
                continue
            except OSError as error:
                raise disk_error(path, error) from error
            return path
        raise AssertionError

    def name_boot(self, pending: Path, boot_id: str) -> Path:
        """Rename a pending boot now that its boot_id is known; open streams go on."""
        path = self.path / f"boot-{boot_id}"
        if pending.exists() and not path.exists():
            pending.rename(path)
        return path

    def test(self, test: str) -> Path:
        """The directory of one test's window, findings and verdict."""
        path = self.path / "tests" / slug(test)
        self._make(path)
        return path

    def tests(self) -> list[str]:
        """Every test that has begun, oldest first by the journal's order."""
        order = [e["test"] for e in journal.read(self.journal.path) if e["what"] == "test-start"]
        return list(dict.fromkeys(order))

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def _make(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error


def slug(test: str) -> str:
    """A test's node id as a file name: readable, at most 120 bytes, never ambiguous."""
    plain = re.sub(r"[^A-Za-z0-9._\[\]=-]+", "_", test.removeprefix("testcases/")).strip("_.")
    if plain == test.removeprefix("testcases/") and len(plain) <= 120:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"


def attempt_of(test: str) -> tuple[str, int]:
    """A test's node id without the mark of a repetition, and which one it was, from 1: `--count`
    runs test_x[gfx] as that, then as test_x[gfx-@2] and so on."""
    found = re.search(r"([\[-])@(\d+)([-\]])", test)
    if found is None:
        return test, 1
    before, number, after = found.groups()
    joint = after if before == "-" else "" if after == "]" else "["
    return test[: found.start()] + joint + test[found.end() :], int(number)
