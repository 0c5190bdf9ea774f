"""Everything one controller has set going here, and how to undo all of it.

The order of undoing: hangs are released first, since a knob may be unwritable
and a collector's last words worth having while a ring still hangs.
"""

from __future__ import annotations

import threading
from typing import Any

from .archive import Archive
from .collector import Collector
from .commands import Commands
from .errors import AgentError, usage
from .guard import Guard
from .kmsg import KmsgCollector, say
from .knobs import Knobs
from .netconsole import Netconsole
from .outbox import Outbox
from .trace import Trace
from .uevents import UeventCollector
from .watchdog import Watchdog
from .workloads import Workloads

__all__ = ["Session"]

_RESTORE_SECONDS = 5.0
_COLLECTOR_SECONDS = 2.0
_FIRST_OWN_STREAM = 1 << 16


class Session:
    """The running collectors, commands and workloads, and the knobs turned."""

    def __init__(self, outbox: Outbox, guard: Guard | None = None) -> None:
        self.outbox = outbox
        self.knobs = Knobs(guard)
        self.standing = Knobs(guard)
        """What is turned for the whole session, and put back at its end alone."""
        self.netconsole = Netconsole()
        self.watchdog = Watchdog()
        self.commands = Commands()
        self.workloads = Workloads(Archive())
        self.trace = Trace(outbox)
        self._collectors: dict[int, Collector] = {}
        self._streams: set[int] = set()
        self._next_stream = _FIRST_OWN_STREAM
        self._lock = threading.Lock()

    def stream(self, wanted: int) -> int:
        """A stream number nobody has used: `wanted`, or one of our own for 0.

        The controller may choose, so that it knows where to put the first bytes
        before they can come.  Raises AgentError (usage).
        """
        with self._lock:
            if wanted == 0:
                wanted = self._next_stream
                self._next_stream += 1
            if wanted in self._streams or not 0 < wanted < 1 << 32:
                raise usage(f"stream {wanted} cannot be used", cure="choose a new number from 1 up")
            self._streams.add(wanted)
            return wanted

    def collect(
        self, what: str, wanted: int, start: str, subsystems: list[str], cpu: int, source: str
    ) -> dict[str, Any]:
        """Start a collector; {"stream": number}.  Raises AgentError."""
        if what not in ("kmsg", "uevents", "trace"):
            raise usage(f"nothing collects {what}", cure="collect kmsg, uevents or trace")
        stream = self.stream(wanted)
        if what == "trace":
            self.trace.attach(cpu, stream)
            return {"stream": stream}
        collector: Collector
        if what == "kmsg":
            collector = KmsgCollector(stream, self.outbox, start)
        else:
            collector = UeventCollector(stream, self.outbox, subsystems, source)
        with self._lock:
            self._collectors[stream] = collector
        collector.start()
        return {"stream": stream}

    def stop_collector(self, stream: int) -> dict[str, Any]:
        """Stop one; its stream ends with an empty frame.  Raises AgentError (usage)."""
        with self._lock:
            collector = self._collectors.pop(stream, None)
        if collector is None:
            raise usage(f"no collector on stream {stream}", cure="see what collect returned")
        collector.stop()
        collector.join(_COLLECTOR_SECONDS)
        return {"stream": stream, "ended": not collector.is_alive()}

    def undo(self, why: str, farewell: bool, killed: bool = False) -> dict[str, Any]:
        """Release, restore, stop: {"workloads": [...], "restored": [...], "failed": [...]}.

        What failed also goes to the kernel log: the controller may be gone.  Without its
        `farewell` perhaps nobody looks after this machine any more: a watchdog stays armed then,
        and is fed only as long as the controller may be back, or not at all by one that is
        `killed`.
        """
        if not farewell:
            self.watchdog.starve(now=killed)
        reports = self.workloads.close()
        self.commands.close()
        knobs = self.knobs.restore(_RESTORE_SECONDS)
        for kind, more in self.standing.restore(_RESTORE_SECONDS).items():
            knobs[kind] += more
        problems = [f"not restored: {one['path']}: {one['what']}" for one in knobs["failed"]]
        problems += [
            f"workload {one['workload']} stuck" for one in reports if one["how"] == "stuck"
        ]
        try:
            self.trace.stop()
        except (AgentError, OSError) as error:
            problems.append(f"trace not removed: {error}")
        try:
            self.netconsole.stop()
        except (AgentError, OSError) as error:
            problems.append(f"netconsole not removed: {error}")
        for problem in problems:
            try:
                say(f"agent ending ({why}): {problem}"[:900])
            except OSError:
                break  # no /dev/kmsg to write to: the report is all there is
        with self._lock:
            collectors = list(self._collectors.values())
            self._collectors.clear()
        for collector in collectors:
            collector.stop()
        for collector in collectors:
            collector.join(_COLLECTOR_SECONDS)
        if farewell:
            self.watchdog.stop()
        return {"workloads": reports, **knobs}
