"""The trace on disk: raw pages of each CPU as they came, and what is needed to read them.

One folder for each time an agent traced a boot, since the numbers of its probes
are new each time: `trace`, and `trace-2` where a link broke and came back.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence.files import Stream, disk_error, write_bytes, write_json

__all__ = ["TraceFiles"]


# Below formats/: "header_page", or "system/event".
_FORMAT = re.compile(r"\w[\w-]*(/\w[\w-]*)?")


class TraceFiles:
    """An open trace folder.  Sinks may be called on any thread."""

    def __init__(self, boot: Path, started: Mapping[str, Any], limit: int) -> None:
        """`started` is the agent's answer to trace.start; `limit` bytes for each CPU.

        Raises LabError where it cannot be written.
        """
        self.path, number = boot / "trace", 1
        while self.path.exists():
            number += 1
            self.path = boot / f"trace-{number}"
        for name in started["formats"]:
            if not _FORMAT.fullmatch(name):
                raise LabError(
                    f"the agent names a format file {name!r}",
                    where=str(self.path),
                    cure="it must be SYSTEM/EVENT; do not trust this target",
                )
        try:
            for name in started["formats"]:
                (self.path / "formats" / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.path, error) from error
        for name, text in started["formats"].items():
            write_bytes(
                self.path / "formats" / name, text.encode("utf-8", errors="surrogateescape")
            )
        write_json(self.path / "meta.json", started["meta"])
        self._arrived = threading.Condition()
        with contextlib.ExitStack() as undo:
            self._cpus = {
                int(cpu): undo.enter_context(Stream(self.path / f"cpu{cpu}.raw", limit))
                for cpu in started["cpus"]
            }
            self._stats = undo.enter_context(Stream(self.path / "stats.jsonl", limit))
            self._comms = undo.enter_context(Stream(self.path / "comms.jsonl", limit))
            self._close = undo.pop_all().close
        self.sample(started["stats"])

    def sink(self, cpu: int) -> Callable[[bytes], None]:
        """Where that CPU's pages go."""
        return partial(self._keep, self._cpus[cpu])

    def sample(self, stats: Iterable[Mapping[str, Any]]) -> None:
        """Keep the counters of every CPU."""
        for line in stats:
            self._stats.write(msgspec.json.encode(line) + b"\n")

    def comms(self, mono: int, names: Mapping[str, str]) -> None:
        """Keep the names of tasks, told at `mono` ns for the first time."""
        for pid, comm in names.items():
            # Any process may call itself anything, also what is no UTF-8.
            clean = comm.encode("utf-8", "replace").decode()
            line = {"mono": mono, "pid": int(pid), "comm": clean}
            self._comms.write(msgspec.json.encode(line) + b"\n")

    def wait(self, sent: Mapping[str, int], deadline: Deadline) -> bool:
        """Whether the first `sent` bytes of each CPU are here before the deadline."""

        def here() -> bool:
            return all(self._cpus[int(cpu)].size >= count for cpu, count in sent.items())

        with self._arrived:
            return self._arrived.wait_for(lambda: here() or bool(self.trouble()), deadline.left())

    def trouble(self) -> str:
        """Why what is here is not all there was, or ""."""
        for stream in (*self._cpus.values(), self._stats, self._comms):
            try:
                stream.check()
            except LabError as error:
                return f"{stream.path.name}: {error.what}"
        return ""

    def flush(self) -> None:
        """Bring it to the disk itself.  Raises LabError."""
        for stream in (*self._cpus.values(), self._stats, self._comms):
            stream.sync()

    def close(self) -> None:
        """Close the files; what still comes is dropped.  Idempotent."""
        self._close()

    def _keep(self, stream: Stream, data: bytes) -> None:
        stream.write(data)
        with self._arrived:
            self._arrived.notify_all()
