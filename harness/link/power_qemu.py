"""Power of a QEMU that somebody else runs: by its QMP socket.

Off is reset and stopped at its first instruction, on is running; a QEMU that has
ended is beyond this switch.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.qmp import Qmp
from harness.link.sockname import short

__all__ = ["QemuPower"]


class QemuPower:
    """The machine behind the monitor of `spec`; connected to for each deed alone."""

    def __init__(self, target: str, spec: ways.QemuPower) -> None:
        self.target = target
        self.spec = spec

    def on(self, deadline: Deadline) -> None:
        with self._monitor(deadline) as qmp:
            qmp.execute("cont", deadline, {})

    def off(self, deadline: Deadline) -> None:
        with self._monitor(deadline) as qmp:
            qmp.execute("stop", deadline, {})
            qmp.execute("system_reset", deadline, {})

    def cycle(self, deadline: Deadline) -> None:
        self.off(deadline)
        self.on(deadline)

    def query(self, deadline: Deadline) -> bool | None:
        with self._monitor(deadline) as qmp:
            return bool(qmp.execute("query-status", deadline, {})["running"])

    def nmi(self, deadline: Deadline) -> bool:
        with self._monitor(deadline) as qmp:
            qmp.execute("inject-nmi", deadline, {})
        return True

    @contextlib.contextmanager
    def _monitor(self, deadline: Deadline) -> Iterator[Qmp]:
        path = Path(self.spec.socket).expanduser()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.1, deadline.left()))
            with short(path) as name:
                sock.connect(name)
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            raise LabError(
                f"no QEMU answers at {path}: {error}",
                where=self.target,
                cure="start it with -qmp unix:PATH,server=on,wait=off; see power.socket",
            ) from error
        qmp = Qmp(sock, deadline, name=self.target)
        try:
            yield qmp
        finally:
            qmp.close()
