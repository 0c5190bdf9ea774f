"""What jobs said of themselves: one line when submitted, one whenever more was known.

The trace has no error code and no waiter's view; these have.  Of the lines with the
same `client` and `job` the last counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from harness.evidence.files import Stream

__all__ = ["JobLine", "JobLog", "Kind", "read"]

Kind = Literal["hang", "slow", "canary"]


class JobLine(Struct, frozen=True, kw_only=True):
    """One job of the process `client` (its pid), numbered there by `job`.

    `context` and `seqno` are its finished fence's in the kernel, None where they could
    not be told.  Times are CLOCK_MONOTONIC of the target in ns.  The rest is None until
    it is known: `error` is the fence's, 0 or a negative errno; `wait_error` what the
    wait returned, `waited_ns` when it began and `woken_ns` when it ended; `released_ns`
    when the CPU ended the job.
    """

    client: int
    job: int
    engine: str
    kind: Kind
    context: int | None
    seqno: int | None
    submitted_ns: int
    recipe: str = ""
    signaled: bool = False
    error: int | None = None
    timestamp_ns: int | None = None
    wait_error: int | None = None
    waited_ns: int | None = None
    woken_ns: int | None = None
    released_ns: int | None = None

    @classmethod
    def submitted(cls, client: int, engine: str, kind: Kind, reply: Mapping[str, Any]) -> Self:
        """From a workload's reply to hang, slow or canary."""
        return cls(
            client=client,
            job=reply["job"],
            engine=engine,
            kind=kind,
            context=reply.get("context"),
            seqno=reply.get("seqno"),
            submitted_ns=reply["submitted_ns"],
            recipe=reply.get("recipe", ""),
        )

    def ended(self, reply: Mapping[str, Any]) -> Self:
        """With what a workload's wait or canary tells."""
        return msgspec.structs.replace(
            self,
            signaled=reply["signaled"],
            error=reply["error"] if reply["signaled"] else None,
            timestamp_ns=reply["timestamp_ns"],
            wait_error=reply["wait_error"],
            waited_ns=self.submitted_ns + reply["waited_ns"],
            woken_ns=self.submitted_ns + reply["woken_ns"],
            released_ns=reply["released_ns"],
        )


class JobLog:
    """An open jobs.jsonl."""

    def __init__(self, path: Path, limit: int) -> None:
        """Append to `path`, at most `limit` bytes.  Raises LabError (disk)."""
        self._stream = Stream(path, limit)

    def add(self, line: JobLine) -> None:
        """Append one; see `check`."""
        self._stream.write(msgspec.json.encode(line) + b"\n")

    def check(self) -> None:
        """Raise what `add` met: a full disk, the limit."""
        self._stream.check()

    def close(self) -> None:
        """Close it; later lines are dropped.  Idempotent."""
        self._stream.close()


def read(path: Path) -> list[JobLine]:
    """What is known last of each job, in the order of their submission; torn lines are left out.

    [] where there is none.
    """
    known: dict[tuple[int, int], JobLine] = {}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    for text in raw.splitlines():
        try:
            line = msgspec.json.decode(text, type=JobLine)
        except msgspec.DecodeError:
            continue
        known[line.client, line.job] = line
    return sorted(known.values(), key=lambda line: line.submitted_ns)
