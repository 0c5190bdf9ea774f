"""As whom a workload runs: an unprivileged user with the render node's group.

Hangs are submitted as a user would: a driver that needs more to be hung, or
that lets such a user do more, must show it.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from typing import Any, NamedTuple

from .errors import target, usage

__all__ = ["Credentials", "credentials", "describe", "forbid_new_privileges"]

_PR_SET_NO_NEW_PRIVS = 38  # include/uapi/linux/prctl.h
_DEFAULT_USER = "nobody"


class Credentials(NamedTuple):
    """Numbers for setresuid, setresgid and setgroups."""

    uid: int
    gid: int
    groups: list[int]


def credentials(user: str | int | None, nodes: list[str]) -> Credentials:
    """`user` (name or uid; nobody when None) with the groups of `nodes` and no other.

    Raises AgentError: usage for root or no such user, target for a node that is
    missing or whose group is root's.
    """
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user or _DEFAULT_USER)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError as error:
        if not isinstance(user, int):
            raise usage(f"no user {user}", cure="create it, or pass a uid") from error
        uid, gid = user, user
    if uid == 0 or gid == 0:
        raise usage("a workload never runs as root", cure="name an unprivileged user")
    groups = []
    for node in nodes:
        group = _group(node)
        if group not in groups:
            groups.append(group)
    return Credentials(uid, groups[0] if groups else gid, groups)


def _group(node: str) -> int:
    try:
        group = os.stat(node).st_gid
    except OSError as error:
        raise target(
            f"no such node: {error.strerror}",
            node,
            "check that the driver is bound: `cards` lists the nodes there are",
            error.errno,
        ) from error
    if group == 0:
        raise target(
            "its group is root's, which a workload must not have",
            node,
            "install udev, whose rules give DRM nodes to render and video, or chgrp it",
        )
    return group


def forbid_new_privileges() -> None:
    """No setuid program gives this process or its children more.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def describe() -> dict[str, Any]:
    """What this process runs as, from /proc/self/status, for the one who must check it."""
    wanted: dict[str, str | None] = {"Uid": None, "Gid": None, "Groups": None, "NoNewPrivs": None}
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in wanted:
                wanted[name] = value.strip()
    return {
        "uids": [int(part) for part in (wanted["Uid"] or "").split()],
        "gids": [int(part) for part in (wanted["Gid"] or "").split()],
        "groups": [int(part) for part in (wanted["Groups"] or "").split()],
        "no_new_privs": wanted["NoNewPrivs"] == "1",
    }
