"""An agent that lost its controller but not its life: stopped, or behind a network that was cut.

It is made to undo what it did, or killed, before another takes its place.
"""

from __future__ import annotations

from harness.deadline import Deadline
from harness.link.ssh import Ssh

__all__ = ["end"]

# Longest time for it to put everything back, in tenths of a second.
_TENTHS = 100
# $1 is its pid, which another process may have by now.
_SCRIPT = """
grep -qs lab-agent "/proc/$1/cmdline" || exit 0
kill -CONT "$1"; kill -TERM "$1"
n=0
while grep -qs lab-agent "/proc/$1/cmdline"; do
    n=$((n + 1))
    [ "$n" -lt "$2" ] || { kill -KILL "$1"; exit 0; }
    sleep 0.1
done
"""


def end(ssh: Ssh, pid: int, deadline: Deadline) -> None:
    """End the agent `pid`, if it is still there.  Raises as Ssh.run does."""
    ssh.run(["sh", "-c", _SCRIPT, "sh", str(pid), str(_TENTHS)], deadline, root=True)
