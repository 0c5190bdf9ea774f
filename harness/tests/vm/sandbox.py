"""A sandbox for a harness: a network of its own, of which the loopback may be taken down, and a
small disk of its own, which may be filled.

`python -m harness.tests.vm.sandbox DIR MIB ARGV` runs ARGV in it; what is in DIR at the end
stays there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["allowed", "command", "loopback"]

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_REQUEST = "16sh14x"


def command(argv: list[str], disk: Path, mib: int) -> list[str]:
    """`argv` in a sandbox whose disk of `mib` MiB is at `disk`."""
    own = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*own, sys.executable, "-m", "harness.tests.vm.sandbox", str(disk), str(mib), *argv]


def allowed() -> bool:
    """Whether this user may have one."""
    with tempfile.TemporaryDirectory() as scratch:
        argv = command(["true"], Path(scratch), 1)
        return subprocess.run(argv, capture_output=True).returncode == 0


def loopback(*, up: bool) -> None:
    """Take it up or down.  Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack(_REQUEST, b"lo", 0))
        _, flags = struct.unpack(_REQUEST, asked)
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack(_REQUEST, b"lo", flags))


def main(disk: str, mib: str, *argv: str) -> int:
    """Run `argv`; its exit status."""
    loopback(up=True)
    # The small disk is over the directory; what it holds goes to the directory below at the end.
    below = os.open(disk, os.O_DIRECTORY)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "lab-sandbox", disk], check=True)
    try:
        return subprocess.run(argv).returncode
    finally:
        shutil.copytree(disk, f"/proc/self/fd/{below}", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
