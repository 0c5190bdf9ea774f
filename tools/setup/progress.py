"""What set-up shows: one line a step, with the time it has taken so far.

Live on a terminal; elsewhere plain lines, with a sign of life now and then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Report", "Task"]

# Seconds between signs of life where there is no terminal.
_BEAT_S = 30.0


class Task:
    """A step under way."""

    def __init__(self, report: Report, name: str, task: TaskID | None) -> None:
        self._report, self._name, self._task = report, name, task
        self._start = self._beat = time.monotonic()

    def detail(self, text: str) -> None:
        """What it is at just now; cheap, call it as often as you like."""
        if self._task is not None:
            self._report.live.update(self._task, detail=text)
        elif time.monotonic() - self._beat >= _BEAT_S:
            self._beat = time.monotonic()
            self._report.line(self._name, f"{text} ({self.elapsed()})")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._report.line(self._name, text)

    def elapsed(self) -> str:
        """Time since its start: 3.2 s, 4 min 05 s."""
        seconds = time.monotonic() - self._start
        if seconds < 60:
            return f"{seconds:.1f} s"
        return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


class Report:
    """Where progress goes: stderr, so that a command's stdout stays its own."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` leaves out all but notes: for a set-up that has nothing to do."""
        self.console = Console(stderr=True, highlight=False)
        self.live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            transient=True,
        )
        self._quiet = quiet

    @contextmanager
    def task(self, name: str, what: str) -> Iterator[Task]:
        """Show step `name` doing `what` until the block ends."""
        if not self.console.is_terminal:
            task = Task(self, name, None)
            self.line(name, what)
            yield task
        else:
            with self.live:
                handle = self.live.add_task(name, detail=what)
                task = Task(self, name, handle)
                try:
                    yield task
                finally:
                    self.live.remove_task(handle)
        self.line(name, f"done in {task.elapsed()}")

    def line(self, name: str, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self.console.print(f"setup: {name + ':':<10} {text}", markup=False, soft_wrap=True)
