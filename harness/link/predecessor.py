"""An agent that lost its controller but not its life: stopped, or behind a network that was cut.

It is made to undo what it did, or killed, before another takes its place.
"""

from __future__ import annotations

from harness.deadline import Deadline
from harness.link.ssh import Ssh

__all__ = ["end"]

# Longest time for it to put everything back, in tenths of a second.
_TENTHS = 100
# $1 is its pid, which another process may have by now, $3 the file that names the boot that is
# up, $4 the name of its own.
_SCRIPT = """
boot=$(cat "$3") && echo "$boot" || exit
[ "$boot" = "$4" ] || exit 0
grep -qs lab-agent "/proc/$1/cmdline" || exit 0
kill -CONT "$1"; kill -TERM "$1"
n=0
while grep -qs lab-agent "/proc/$1/cmdline"; do
    n=$((n + 1))
    [ "$n" -lt "$2" ] || { kill -KILL "$1"; exit 0; }
    sleep 0.1
done
"""


def end(ssh: Ssh, boot_id: str, pid: int, deadline: Deadline) -> str:
    """End the agent `pid` of the boot `boot_id`, if it is still there; which boot is up.

    Raises as Ssh.run does.
    """
    argv = ["sh", "-c", _SCRIPT, "sh", str(pid), str(_TENTHS), ssh.boot_id_path, boot_id]
    done = ssh.run(argv, deadline, root=True, check=True)
    return done.stdout.decode("ascii", "replace").strip()
