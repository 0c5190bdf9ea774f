"""Who this machine is and how it fares: facts for run.json, health between tests.

Everything comes from procfs; a file that a kernel lacks gives None, so that the
host decides what its absence means.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from . import VERSION
from .builds import builds
from .frames import PROTOCOL

__all__ = ["clocks", "facts", "health"]

_DRM = "/sys/class/drm"
# Who sleeps for as long may be stuck, and how often that is looked at: most wait for a disk.
_LOOK_SECONDS = 0.3
_AGAIN_SECONDS = 0.01
# More than the names and the 50 numbers of a stat file are.
_STAT_BYTES = 4096


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return None


def clocks() -> dict[str, int]:
    """CLOCK_MONOTONIC, CLOCK_BOOTTIME and CLOCK_REALTIME now, in ns, read back to back."""
    return {
        "monotonic": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        "boottime": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "realtime": time.clock_gettime_ns(time.CLOCK_REALTIME),
    }


def _config(release: str) -> dict[str, Any] | None:
    """Where the kernel's config can be read on this machine, its size and SHA-256 (as stored)."""
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return None


def facts() -> dict[str, Any]:
    """What identifies this boot of this machine; fetch the config with `read`."""
    name = os.uname()
    return {
        "agent": VERSION,
        "protocol": PROTOCOL,
        "python": sys.version.split()[0],
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "uname": {
            "sysname": name.sysname,
            "nodename": name.nodename,
            "release": name.release,
            "version": name.version,
            "machine": name.machine,
        },
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "cmdline": _text("/proc/cmdline"),
        "config": _config(name.release),
        "uptime": float((_text("/proc/uptime") or "0").split()[0]),
        "clocks": clocks(),
        "builds": builds(),
    }


def health() -> dict[str, Any]:
    """{"debug_locks", "taint", "boot_id", "loadavg", "stuck", "devices"}.

    `debug_locks` is whether lockdep still works: 1, or 0 after its first report
    (kernel/locking/lockdep_proc.c, lockdep_stats_show); None without lockdep.
    `taint` is the number of Documentation/admin-guide/tainted-kernels.rst.  `stuck` are
    processes in uninterruptible sleep at two looks, [{"pid", "comm"}]; `devices` those that
    have a DRM card, by the name of their bus.
    """
    locks: int | None = None
    for line in (_text("/proc/lockdep_stats") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "debug_locks" and value.strip().isdigit():
            locks = int(value)
    taint = _text("/proc/sys/kernel/tainted")
    load = _text("/proc/loadavg")
    return {
        "debug_locks": locks,
        "taint": int(taint) if taint is not None else None,
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "loadavg": [float(part) for part in load.split()[:3]] if load else None,
        "stuck": [{"pid": pid, "comm": comm} for pid, comm in _stuck().items()],
        "devices": _devices(),
    }


def _stuck() -> dict[int, str]:
    """Who moved in no look but sleeps uninterruptibly, by pid."""
    stuck = _sleeping(os.listdir("/proc"))
    end, over = time.monotonic() + _LOOK_SECONDS, False
    while stuck and not over:
        time.sleep(_AGAIN_SECONDS)
        # Before the look: there is one at the end, however late it is by then.
        over = time.monotonic() >= end
        after = _sleeping(map(str, stuck))
        stuck = {pid: comm for pid, comm in stuck.items() if pid in after}
    return stuck


def _sleeping(names: Iterable[str]) -> dict[int, str]:
    """Those of the processes `names` that are in state D (proc(5), stat); their first threads
    only, for there may be many."""
    found = {}
    for name in names:
        if not name.isdigit():
            continue
        try:
            # Bare system calls: there may be hundreds, asked for before and after each test.
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
            try:
                head, _, rest = os.read(fd, _STAT_BYTES).rpartition(b")")
            finally:
                os.close(fd)
        except OSError:
            continue  # it ended meanwhile
        if rest[1:2] == b"D":
            found[int(name)] = head.partition(b"(")[2].decode("utf-8", "replace")
    return found


def _devices() -> list[str]:
    """PCI addresses, where they are PCI's."""
    try:
        names = [name for name in os.listdir(_DRM) if name[:4] == "card" and name[4:].isdigit()]
    except OSError:
        return []
    return sorted(os.path.basename(os.path.realpath(f"{_DRM}/{name}/device")) for name in names)
