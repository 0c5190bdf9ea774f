"""Who has DRM nodes open: the reason to leave a machine alone.

From /proc/*/fd, because that needs no driver's help; debugfs adds who is
master (drivers/gpu/drm/drm_debugfs.c, drm_clients_info).
"""

from __future__ import annotations

import os
from typing import Any

from . import fileio
from .errors import AgentError

__all__ = ["clients", "master_pids"]

_NODES = "/dev/dri/"
_DEBUGFS = "/sys/kernel/debug/dri"
_LIMIT = 1 << 20


def clients(node: str | None) -> list[dict[str, Any]]:
    """[{"pid", "comm", "node", "master"}], one for each process and node; our own excluded.

    `node` narrows it to one path.  `master` is None where debugfs does not tell.
    """
    ours = _descendants(os.getpid())
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in ours:
            for path in _open_nodes(int(name)):
                if node is None or path == node:
                    found.add((int(name), path))
    masters = {path: _masters(path) for path in {path for _, path in found}}
    answer = []
    for pid, path in sorted(found):
        known = masters[path]
        answer.append(
            {
                "pid": pid,
                "comm": _comm(pid),
                "node": path,
                "master": None if known is None else pid in known,
            }
        )
    return answer


def _open_nodes(pid: int) -> set[str]:
    paths = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                path = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue  # closed meanwhile
            if path.startswith(_NODES):
                paths.add(path)
    except OSError:
        pass  # ended meanwhile
    return paths


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # comm is in parentheses and may hold both spaces and parentheses.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _descendants(root: int) -> set[int]:
    family = {root}
    parents = {int(name): _parent(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return family


def _masters(path: str) -> set[int] | None:
    try:
        minor = os.minor(os.stat(path).st_rdev)
        data, _ = fileio.read(f"{_DEBUGFS}/{minor}/clients", _LIMIT, 2.0)
    except (OSError, AgentError):
        return None
    return master_pids(data.decode("utf-8", "replace"))


def master_pids(table: str) -> set[int]:
    """The thread group ids of masters in debugfs' `dri/N/clients`.

    Rows are comm, tgid, minor, master y/n, authenticated y/n, ...; comm may hold
    spaces, so the two y/n columns are what is looked for.
    """
    pids = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        for index in range(2, len(words) - 1):
            flags = words[index : index + 2]
            if all(flag in ("y", "n") for flag in flags) and words[index - 2].isdigit():
                if flags[0] == "y":
                    pids.add(int(words[index - 2]))
                break
    return pids
