"""One command for a target: an argv list made into the one string that SSH carries.

The only place that quotes.  The command is started through a constant script,
which first says its process id on stderr (so that it can be killed: SSH servers
let commands outlive their channel) and whether the program exists at all.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence

from harness.errors import UsageError

__all__ = ["KILL", "Command"]

# $0 is a nonce that marks the lines meant for us; the data stay in "$@", never in the script.
_START = (
    'echo "$0 pid $$" >&2;'
    ' command -v "$1" >/dev/null 2>&1 || { echo "$0 missing" >&2; exit 127; };'
    ' exec "$@"'
)
# Whole sessions, since a command may have children; sshd makes each command a session leader.
_KILL = 'for p; do kill -KILL "-$p" 2>/dev/null; kill -KILL "$p" 2>/dev/null; done; true'
KILL = ("/bin/sh", "-c", _KILL, "kill")
"""Kills the process ids given as further arguments, with their process groups."""

_SUDO = ("sudo", "-n", "--")
# A login shell gets the whole command as one argument: MAX_ARG_STRLEN of linux/binfmts.h.
_LIMIT = 131072


class Command:
    """`argv`, ready to be sent.  Immutable."""

    def __init__(self, argv: Sequence[str], *, sudo: bool = False) -> None:
        """Raises UsageError for an argv that no exec() could take."""
        if isinstance(argv, str) or not argv or not argv[0]:
            raise UsageError(
                f"not a command: {argv!r}", cure="give a list: program, then its arguments"
            )
        self.argv = tuple(argv)
        nonce = f"tdrlab-{secrets.token_hex(8)}"
        started = ("/bin/sh", "-c", _START, nonce, *self.argv)
        if sudo:
            started = ("/bin/sh", "-c", _START, nonce, *_SUDO, *started)
        self.line = ("exec " + shlex.join(started)).encode("utf-8", "surrogateescape")
        self._marks = re.compile(re.escape(nonce).encode() + rb" (?:pid (\d+)|(missing))\n")
        if b"\0" in self.line:
            raise UsageError(f"{argv[0]}: an argument holds a NUL", cure="send it on stdin")
        if len(self.line) >= _LIMIT:
            raise UsageError(
                f"{argv[0]}: {len(self.line)} bytes of arguments, {_LIMIT} fit",
                cure="send the data on stdin, or put() them in a file",
            )

    def __str__(self) -> str:
        """For messages; at most about a line."""
        text = shlex.join(self.argv)
        return text if len(text) <= 120 else text[:117] + "..."

    def pids(self, stderr: bytes) -> list[str]:
        """The process ids it told, outermost first."""
        return [pid.decode() for pid, _ in self._marks.findall(stderr) if pid]

    def missing(self, stderr: bytes | bytearray) -> bool:
        """Whether the program does not exist there."""
        return any(missing for _, missing in self._marks.findall(stderr))

    def without_marks(self, stderr: bytes) -> bytes:
        """`stderr` as the program wrote it."""
        return self._marks.sub(b"", stderr)
