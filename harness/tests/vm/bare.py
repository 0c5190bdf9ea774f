"""A virtual machine without agent and evidence, as a person would use it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from harness.inventory import Target
from harness.link.console import log_file
from harness.link.qemu import Qemu
from harness.link.virtual import load_manifest

__all__ = ["Vm"]


class Vm:
    """A machine and the few ways these tests look into it."""

    def __init__(self, target: Target, directory: Path) -> None:
        self.log = directory / "console.log"
        self.machine = Qemu(target, load_manifest(), directory / "run", log_file(self.log))
        self._known = directory / "known_hosts"

    def sh(self, script: str) -> str:
        """What a shell script printed there; it must succeed."""
        at = self.machine.endpoint()
        self._known.write_text(f"[{at.host}]:{at.port} {at.host_key}\n")
        options = {
            "UserKnownHostsFile": self._known,
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        words = ["ssh", "-F", "none", "-i", str(at.key), "-p", str(at.port)]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        done = subprocess.run(
            [*words, f"{at.user}@{at.host}", f"sh -euc {shlex.quote(script)}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
