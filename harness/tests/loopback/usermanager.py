"""A systemd user manager of a test's own, on any machine with systemd's binaries and root.

It lives in namespaces and a control group of its own, with a home of its own: units of the
user's are not seen, and nothing it starts outlives it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.deadline import Deadline

__all__ = ["UserManager"]

MANAGER = "/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
# A user's manager starts only where /run/systemd/system tells that systemd runs the machine
# (sd_booted(3)).  It is no process 1 either: that would be the machine's manager.
INSIDE = """
mount -t tmpfs none /run/systemd && mkdir /run/systemd/system || exit 77
"$0" --user &
wait $!
"""
# Longest that it takes to answer, on a machine that does much else, in seconds.
PATIENCE_S = 120.0


class UserManager:
    """One manager; `home` is its user's.  Skips the test where none can be started."""

    def __init__(self, prepare: str = "") -> None:
        """`prepare`: shell commands that change the mounts it sees."""
        self._inside = f"set -e\n{prepare}\nset +e{INSIDE}"
        for needed in (MANAGER, "systemctl", "systemd-escape", "unshare", "nsenter"):
            if shutil.which(needed) is None:
                pytest.skip(f"no {needed} here: apt-get install systemd")
        if os.geteuid() or not _hierarchies():
            pytest.skip("a control group of its own needs root")
        # Not in tmp_path, whose length a socket's address would not hold (unix(7)).
        self.home = Path(tempfile.mkdtemp(prefix="tdrlab-"))
        self._groups = [place / self.home.name for place in _hierarchies()]
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        (self.home / "run").mkdir(mode=0o700)
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        for group in self._groups:
            group.mkdir()
        # Into its control groups first: it takes its own for the root of all that it makes.
        joins = "".join(f"echo 0 > {group}/cgroup.procs && " for group in self._groups)
        self._process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'{joins} exec "$@"',
                "sh",
                *namespaces,
                "sh",
                "-c",
                self._inside,
                MANAGER,
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
        )
        deadline = Deadline(PATIENCE_S)
        while self.systemctl("show-environment", check=False).returncode:
            status = self._process.poll()
            if status is not None:
                self.stop()
                pytest.skip(f"systemd --user does not start here: it ended with {status}")
            assert deadline.pause(0.1), "systemd --user does not answer"

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`systemctl --user WORDS`, from inside: the manager must know who asks."""
        assert self._process is not None
        spaces = f"/proc/{self._process.pid}/ns"
        inside = ["nsenter", f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children"]
        return subprocess.run(
            [*inside, "systemctl", "--user", "--no-pager", *words],
            env=self._environment,
            text=True,
            capture_output=True,
            check=check,
        )

    def shown(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit."""
        words = [f"--property={name}" for name in names]
        said = dict(
            line.split("=", 1) for line in self.systemctl("show", *words, unit).stdout.splitlines()
        )
        return [said[name] for name in names]

    def stop(self) -> None:
        """End it, with all that it started.  Idempotent."""
        if self._process is not None:
            self.systemctl("exit", check=False)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for group in self._groups:
            for inner, _, _ in os.walk(group, topdown=False):
                os.rmdir(inner)
        shutil.rmtree(self.home, ignore_errors=True)


def _hierarchies() -> list[Path]:
    """Our own control group in each hierarchy that systemd keeps its account in: cgroup2's, and
    beside an older one the one called systemd (cgroups(7))."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, place = line.split(":", 2)
        if controllers == "name=systemd":
            found.append(CGROUPS / "systemd" / place.lstrip("/"))
        elif number == "0":
            unified = CGROUPS / "unified"
            found.append((unified if unified.exists() else CGROUPS) / place.lstrip("/"))
    return [place for place in found if os.access(place / "cgroup.procs", os.W_OK)]
