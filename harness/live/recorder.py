"""The recorder: the target's trace flows to disk as long as an attachment lasts.

A target that cannot be traced is tested all the same: what is missing is said,
so that nobody takes silence for health.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.evidence.boot import Boot
from harness.evidence.trace import TraceFiles
from harness.gpu import observe
from harness.inventory import Target
from harness.link.agent import Agent

__all__ = ["Recorder"]

# Longest wait for what the trace holds: a sync is quick unless the link cannot keep up.
SYNC_S = 20.0


class Recorder:
    """The trace of one boot, or the reason why there is none in `absent`, with its cure.

    `events` and `probes` say of each "system:event" whether it is "on", or why not.
    """

    def __init__(self, target: Target, agent: Agent, boot: Boot, deadline: Deadline) -> None:
        """Start it.  Raises only where the link itself is gone."""
        self.absent = ""
        self.cure = ""
        self.events: Mapping[str, str] = {}
        self.probes: Mapping[str, str] = {}
        self._agent = agent
        self._files: TraceFiles | None = None
        self._missed: Mapping[str, int] = {}
        if not target.policy.trace:
            self.absent = "the trace is off (policy.trace = false)"
            self.cure = "remove trace = false from the target's policy"
            return
        try:
            self._start(target, boot, deadline)
        except HarnessError as error:
            if not agent.alive:
                raise
            self.absent = f"no trace: {error.what} ({error.where})"
            self.cure = error.cure

    @property
    def folder(self) -> str:
        """The trace's folder in its boot's; "trace" also where there is none."""
        return self._files.path.name if self._files else "trace"

    @property
    def cut(self) -> bool:
        """Whether it lacks something that had been recorded: only a new one is whole."""
        return self._files is not None and bool(self._files.trouble())

    @property
    def on(self) -> bool:
        """Whether there is anything to sync."""
        return self._files is not None

    def sync(self, told: Mapping[str, Any] | None = None) -> str:
        """Have all on disk that was recorded until now; why not all is, or "".

        `told` is what the agent said when it was asked along with something else.
        Raises LabError where the link is gone.
        """
        if self._files is None:
            return self.absent
        deadline = Deadline(SYNC_S)
        try:
            told = told or self._agent.call("trace.sync", deadline)
        except HarnessError as error:
            if not self._agent.alive:
                raise
            return f"the trace is behind: {error.what}"
        if "behind" in told:
            return f"the trace is behind: {told['behind']}"
        self._files.sample(told["stats"])
        self._files.comms(told["mono"], told["comms"])
        if not self._files.wait(told["sent"], deadline):
            return "the trace is behind: it had not arrived in time"
        return self._files.trouble() or self._gone(told["gone"]) or self._missing(told["missed"])

    def flush(self) -> None:
        """Bring what is here to the disk itself.  Raises LabError."""
        if self._files is not None:
            self._files.flush()

    def close(self) -> None:
        """Close the files.  Idempotent."""
        if self._files is not None:
            self._files.close()

    def _start(self, target: Target, boot: Boot, deadline: Deadline) -> None:
        started = self._agent.call(
            "trace.start",
            deadline,
            buffer_kb=target.policy.trace_buffer_kb,
            events=list(observe.trace_events(target.driver)),
            probes=list(observe.probes(target.driver)),
        )
        self.events, self.probes = started["meta"]["events"], started["meta"]["probes"]
        files = TraceFiles(boot.path, started, target.policy.stream_limit)
        self._files = files
        for cpu in started["cpus"]:
            self._agent.collect("trace", files.sink(cpu), deadline, cpu=cpu)

    def _gone(self, systems: list[str]) -> str:
        """What is not recorded any more in this boot, though it was."""
        told = ", ".join(systems)
        return f"a module was unloaded: the trace was cleared, without {told} since" if told else ""

    def _missing(self, missed: Mapping[str, Any]) -> str:
        """What the probes missed since the last time."""
        new = {name: n for name, n in missed.items() if n > self._missed.get(name, 0)}
        self._missed = dict(missed)
        told = ", ".join(f"{count} of {name}" for name, count in new.items())
        return f"probes missed hits: {told}" if told else ""
