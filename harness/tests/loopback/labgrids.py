"""A labgrid coordinator and its exporters, as processes on loopback; skips where there is none.

Places are written as the coordinator's own file, so that a coordinator that is started anew
knows them, as a real one does.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.deadline import Deadline
from harness.inventory import Coordinator
from harness.tests.loopback.servers import until
from harness.tests.loopback.sshd import free_port

__all__ = ["Coordinators", "Exporter", "place_of", "why_no_labgrid"]


def why_no_labgrid() -> str:
    """Why there can be no coordinator; "" when there can."""
    found = importlib.util.find_spec("labgrid")
    return "" if found else 'no labgrid here: pip install "tdrlab[labgrid]"'


def place_of(tags: Mapping[str, str] | None = None, *matches: str) -> dict[str, Any]:
    """A place as the coordinator keeps it; a match as "exporter/group/class/name"."""
    parts = [match.split("/") for match in matches]
    return {
        "aliases": [],
        "comment": "",
        "tags": dict(tags or {}),
        "matches": [
            {"exporter": e, "group": g, "cls": c, "name": n, "rename": None} for e, g, c, n in parts
        ],
        "created": 1.0,
        "changed": 1.0,
    }


class _Program:
    """A program of labgrid's, in a folder of its own."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / log
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, module: str, ready: str, *args: str) -> None:
        already = self.log.read_text().count(ready) if self.log.exists() else 0
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                start_new_session=True,
            )  # fmt: skip
        process = self._process

        def is_ready() -> bool:
            said = self.log.read_text()
            assert process.poll() is None, said
            return said.count(ready) > already

        until(is_ready, f"{module} is ready")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, with what it started, as systemd ends a service or a power failure its host."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in an orderly way."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Coordinators(_Program):
    """One coordinator after the other, on the same port, knowing the same places."""

    def __init__(self, folder: Path, places: Mapping[str, dict[str, Any]]) -> None:
        if reason := why_no_labgrid():
            pytest.skip(reason)
        super().__init__(folder, "coordinator.log")
        self.address = f"127.0.0.1:{free_port()}"
        # YAML takes JSON.
        (folder / "places.yaml").write_bytes(msgspec.json.encode(places))

    def start(self) -> Coordinators:
        """Serve."""
        self._start("labgrid.remote.coordinator", "listening on", "-l", self.address)
        return self

    def spec(self, **changes: Any) -> Coordinator:
        """As a target list would name it."""
        facts: dict[str, Any] = {"take_over": "dead", "stale_s": 30.0, "patience_s": 60.0}
        return Coordinator(address=self.address, **{**facts, **changes})

    def lab(self, **changes: object) -> str:
        """The [lab] of a target list."""
        spec = self.spec(**changes)
        return (
            f'[lab]\ncoordinator = "{spec.address}"\ntake_over = "{spec.take_over}"\n'
            f"stale_s = {spec.stale_s}\npatience_s = {spec.patience_s}\n"
        )


class Exporter(_Program):
    """An exporter of loopback's, called `name`."""

    def __init__(
        self, folder: Path, coordinator: str, name: str, groups: Mapping[str, Any]
    ) -> None:
        super().__init__(folder, f"{name}.log")
        self._argv: Sequence[str] = (
            *("-c", coordinator, "-n", name, "--hostname", "127.0.0.1", f"{name}.yaml"),
        )
        (folder / f"{name}.yaml").write_bytes(msgspec.json.encode(groups))

    def start(self) -> Exporter:
        """Export; a coordinator must be there."""
        self._start("labgrid.remote.exporter", "creating poll task", *self._argv)
        return self

    def wait(self) -> int:
        """Until it ended by itself, as it does when the coordinator is gone; its status."""
        assert self._process is not None
        process, self._process = self._process, None
        deadline = Deadline(60)
        while process.poll() is None:
            assert deadline.pause(0.02)
        return process.returncode
