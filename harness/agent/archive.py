"""This agent's own zipapp, in a form that an unprivileged child runs, and quickly.

It may lie where only root can look, so the child is given a copy in memory, with the bytecode
that this Python needs.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading

from .errors import lab

__all__ = ["Archive"]


class Archive:
    """Makes the command lines that run this same agent code again."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._lock = threading.Lock()

    def command(self, *arguments: str) -> tuple[list[str], int]:
        """argv, and the file descriptor that the child must inherit.

        Raises AgentError (lab) when this code does not run from a zipapp.
        """
        if not sys.executable:
            raise lab("python does not know its own path", cure="start it by its full path")
        with self._lock:
            if self._fd is None:
                self._fd = _copy()
        # -I: neither the environment nor a home directory decides what is imported.
        return [sys.executable, "-I", "-B", f"/proc/self/fd/{self._fd}", *arguments], self._fd


def _copy() -> int:
    path = getattr(globals()["__loader__"], "archive", None)
    if path is None:
        raise lab("the agent does not run from its zipapp", cure="build it and run agent.pyz")
    with open(path, "rb") as file:
        data = file.read()
    if not __file__.endswith(".pyc"):  # it has another Python's bytecode
        from . import bytecode

        data = bytecode.add(data)
    fd = os.memfd_create("agent.pyz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    # The child inherits it open for writing; what the next one runs is not its to change.
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
