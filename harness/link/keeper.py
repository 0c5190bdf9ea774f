"""Keeps one child process from outliving the harness, however the harness ends.

Run as a script (`python3 keeper.py FD... -- ARGV`), stdlib only, so that it starts
in a moment; its stdin is a pipe whose other end the harness holds open.
"""

# PR_SET_PDEATHSIG alone would not do in the harness: it fires when the *thread* that
# forked ends.  Here the only thread is the one that forks, so the child dies with the
# keeper; and the keeper goes when the pipe closes, which the kernel does even for a
# harness that was killed with SIGKILL.

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
# Seconds between SIGTERM, on which QEMU flushes its disks, and SIGKILL.
_GRACE_S = 3.0
# Seconds between looks at our parent, in case somebody else holds the pipe's other end.
_LOOK_MS = 1000


def main(arguments: list[str]) -> int:
    """Start the command, say its pid on stdout, return its exit status (128+N for a signal)."""
    cut = arguments.index("--")
    keep, argv = [int(fd) for fd in arguments[:cut]], arguments[cut + 1 :]
    parent, keeper = os.getppid(), os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bound() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)

    # Its stdout joins stderr: ours carries its pid, and nobody reads on.
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=2, pass_fds=keep, preexec_fn=bound
    )
    for fd in keep:
        os.close(fd)  # else the child's end of a socket would never be seen to close
    print(child.pid, flush=True)
    pidfd = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(0, select.POLLIN)
    while os.getppid() == parent:
        ready = {fd for fd, _ in poll.poll(_LOOK_MS)}
        if pidfd in ready:
            break
        if 0 in ready and not os.read(0, 1):
            break
    else:
        child.kill()
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
    status = child.wait()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
