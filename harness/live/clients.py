"""Clients: the processes that a test started on its target, and the log of their jobs.

All end with the test that started them, and what is known of their jobs goes beside its evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from harness.evidence.jobs import JobLine, JobLog

__all__ = ["Clients"]


class Stoppable(Protocol):
    """A process on the target."""

    def stop(self) -> None:
        """End it.  Idempotent."""


C = TypeVar("C", bound=Stoppable)


class Clients:
    """Those of the running test."""

    def __init__(self) -> None:
        self._running: list[Stoppable] = []
        self._log: JobLog | None = None

    def add(self, client: C) -> C:
        """`client`, from now on to be stopped with the test."""
        self._running.append(client)
        return client

    def stop(self) -> None:
        """End all, which releases what hangs."""
        running, self._running = self._running, []
        for client in running:
            client.stop()

    def forget(self) -> None:
        """Their target or the link to it is gone, and they with it."""
        self._running.clear()

    def begin_log(self, folder: Path, limit: int) -> None:
        """Jobs are the test's whose evidence is in `folder`; of its log at most `limit` bytes are
        kept.  Raises LabError (disk)."""
        self.end_log()
        self._log = JobLog(folder / "jobs.jsonl", limit)

    def job(self, line: JobLine) -> None:
        """What is known of a job, into the test that is running; others are nobody's."""
        if self._log is not None:
            self._log.add(line)

    def end_log(self) -> None:
        """The test has ended.  Idempotent; raises LabError where the log is not whole (disk)."""
        log, self._log = self._log, None
        if log is not None:
            log.close()
            log.check()
