"""The SSH keys of the virtual targets: one pair for the client, one for the machine.

Generated once per user, kept in the cache, readable by that user alone.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.setup.command import run

__all__ = ["Keys", "ensure_keys"]

_NAMES = ("client", "host")


@dataclass(frozen=True)
class Keys:
    """Where they are, and the public halves as "ssh-ed25519 AAAA..."."""

    directory: Path
    client: str
    host: str

    @property
    def private(self) -> Path:
        """The client's private key."""
        return self.directory / "client"


def ensure_keys(directory: Path, *, log: Path, lock: int) -> Keys:
    """The keys in `directory`, made where one is missing.  Raises LabError."""
    if not all((directory / f"{name}{end}").exists() for name in _NAMES for end in ("", ".pub")):
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = directory.with_name(directory.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        for name in _NAMES:
            comment = f"tdrlab-{name}"
            words: list[str | Path] = [
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                comment,
                "-f",
                part / name,
            ]
            run(["ssh-keygen", *words], log=log, lock=lock)
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    # A cache restored from a backup may have lost them, and ssh refuses open keys.
    os.chmod(directory, 0o700)
    for name in _NAMES:
        os.chmod(directory / name, 0o600)
    public = [" ".join((directory / f"{n}.pub").read_text().split()[:2]) for n in _NAMES]
    return Keys(directory, *public)
