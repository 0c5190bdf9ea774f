"""The night as somebody watches it: a live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.lab.nightly import Job

__all__ = ["Lines", "LiveTable", "board_for"]

# As many rows as are shown at once: the rest is counted.
ROWS = 40


class Lines:
    """A line for each event, with the time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, jobs: Sequence[Job]) -> None:
        """Nothing: a log is no table."""

    def say(self, line: str) -> None:
        """The line, as it is."""
        now = datetime.now().strftime("%H:%M:%S")
        self._console.print(f"{now} {line}", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class LiveTable(Lines):
    """A row for each target that runs, drawn anew as it goes; events pass by above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        # No thread of its own: a child of a night dies with the thread that started it.
        self._live = Live(console=console, auto_refresh=False)
        self._drawn: tuple[object, ...] = ()

    def show(self, jobs: Sequence[Job]) -> None:
        """Draw it if anything in it is another."""
        rows = tuple(_row(job) for job in jobs if job.state == "running")[:ROWS]
        counts = {state: sum(job.state == state for job in jobs) for state in ("waiting", "ended")}
        if (rows, counts) == self._drawn:
            return
        self._drawn = (rows, counts)
        table = Table(box=None, pad_edge=False)
        for column in ("target", "for", "so far", "now"):
            table.add_column(column)
        for row in rows:
            table.add_row(*map(escape, row))
        table.caption = f"{counts['waiting']} waiting, {counts['ended']} ended"
        self._live.update(table, refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def board_for(console: Console) -> Lines:
    """What fits this output."""
    return LiveTable(console) if console.is_terminal else Lines(console)


def _row(job: Job) -> tuple[str, str, str, str]:
    told, now = "", "connecting"
    if job.progress is not None:
        told = job.progress.told()
        now = job.progress.now.removeprefix("testcases/") or now
        if job.progress.counts and not job.progress.now:
            now = "between two tests"
    if job.kill_at is not None:
        now = "ending"
    minutes, seconds = divmod(int(job.seconds), 60)
    return job.target, f"{minutes}:{seconds:02}", told, now
